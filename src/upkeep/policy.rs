//! What is asked of upkeep: how segments are merged, when snapshots are made, what is kept.

use std::time::Duration;

use crate::ltx::Encoding;

/// Everything that is asked for one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The rhythm of level 1, 2, and so on; at most eight.
    pub levels: Vec<Duration>,
    /// When snapshots are made.
    pub snapshots: Snapshots,
    /// What may be deleted; `None`: nothing, ever.
    pub retention: Option<Retention>,
    /// Read every merged segment back from its first byte to its last.
    pub verify: bool,
    /// How often the replica is listed again and compared.
    pub audit_interval: Duration,
    /// How merged segments are packed.
    pub encoding: Encoding,
}

/// When snapshots are made. A database that does not change gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// No change waits longer for one.
    pub interval: Duration,
    /// At this time of the day (UTC), in place of whenever the interval has passed.
    pub at: Option<TimeOfDay>,
}

/// A time of the day, spread over many databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    /// After midnight UTC.
    pub after_midnight: Duration,
    /// Each replica begins up to this much later, always by the same amount.
    pub jitter: Duration,
}

/// What is kept at least. What is older may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every transaction by itself, this long after it was merged; `None`: as
    /// long as merged segments.
    pub l0: Option<Duration>,
    /// How often to look for what may go.
    pub check_interval: Duration,
    /// Every merged point of the last so much time.
    pub history: Duration,
    /// Snapshots from before that.
    pub keep: Keep,
    /// What is no longer needed stays this much longer, so that restores finish.
    pub grace: Duration,
}

/// Which older snapshots are kept: the newest of each of the last so many
/// periods that have one. Counted in UTC; weeks begin on Monday.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// Of each hour.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer than any restore that is still of use.
pub const GRACE: Duration = Duration::from_secs(60 * 60);

impl Default for Policy {
    /// As Litestream, with the grace and the audit that it does not have.
    fn default() -> Self {
        Self {
            levels: vec![MINUTE / 2, MINUTE * 5, MINUTE * 60],
            snapshots: Snapshots { interval: DAY, at: None },
            retention: Some(Retention::default()),
            verify: false,
            audit_interval: DAY,
            encoding: Encoding::Block,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            l0: Some(MINUTE * 5),
            check_interval: Duration::from_secs(15),
            history: DAY,
            keep: Keep::default(),
            grace: GRACE,
        }
    }
}
