//! The back room: merges small segments into larger ones, makes snapshots of
//! what is on the replica, deletes what policy no longer keeps, and looks from
//! time to time whether everything is still there.
//!
//! Always true: nothing is deleted before the storage has confirmed what stands
//! in for it, a grace longer than a restore has passed since it was first found
//! to be dispensable, and the pins were read. The database itself is never
//! touched: snapshots are merged from what the replica holds. A crash leaves
//! either the old state or the new one of each step, and both are whole.
//!
//! Each kind of decision is a pure function of what is there (`compact`,
//! `retain`, `audit`); [`Upkeep::step`] carries out one of them at a time.

mod audit;
mod by_hand;
pub mod compact;
mod delete;
mod error;
mod merge;
mod policy;
mod prune;
pub mod retain;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::ltx::{Header, Level};
use crate::replica::{Item, Replica, Segment, Shelf};
use crate::spool::Uploaded;
use crate::types::{Timestamp, TxidRange, crc64_iso};

use audit::Audit;
use compact::{Merge, Snapshot};
use delete::Deletions;
use merge::Inputs;

pub use by_hand::snapshot;
pub use compact::FAN_IN;
pub use error::{Error, MergeError};
pub use merge::Stop;
pub use policy::{GRACE, Keep, Policy, Retention, Snapshots, TimeOfDay};
pub use prune::{PruneOptions, Pruned, prune};

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Of a clock that only runs forward. All waiting is measured with it.
    pub elapsed: Duration,
    /// The time of day. Nothing but `snapshot.at` depends on it.
    pub wall: Timestamp,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Something was done; there may be more.
    Worked,
    /// Nothing is due. `again`: when something may be, if nothing changes before.
    Idle {
        /// From now.
        again: Option<Duration>,
    },
    /// The replica is not as it should be: the upload must look at it anew before
    /// it goes on.
    LookAgain {
        /// Its history does not hold together without a new base.
        needs_base: bool,
        /// Segments that somebody else put there.
        strangers: Vec<Segment>,
    },
}

/// What is done for one replica.
pub struct Upkeep {
    replica: Arc<Replica>,
    shelf: Shelf,
    /// What the newest segments were made of.
    uploaded: Uploaded,
    policy: Arc<Policy>,
    stop: Stop,
    /// This replica's place between all others, of 2^64.
    shift: u64,
    /// Segments that cannot be merged, left as they are.
    aside: BTreeSet<(Level, TxidRange)>,
    /// A merge whose fate is not known: the same is tried again before any other,
    /// so that a level never holds two segments that overlap.
    unfinished: Option<Merge>,
    /// A base from which no snapshot can be made.
    hopeless: Option<Segment>,
    can_promote: bool,
    holes: BTreeSet<(Level, TxidRange)>,
    audited: Option<Duration>,
    deletions: Deletions,
}

impl Upkeep {
    /// `shelf` is what the replica's upload keeps; `place` names the replica among all others.
    pub fn new(replica: Arc<Replica>, shelf: Shelf, policy: impl Into<Arc<Policy>>, place: &str, stop: Stop) -> Self {
        let mut digest = crc64_iso();
        digest.update(place.as_bytes());
        Self {
            replica,
            shelf,
            uploaded: Uploaded::default(),
            policy: policy.into(),
            stop,
            shift: digest.finalize(),
            aside: BTreeSet::new(),
            unfinished: None,
            hopeless: None,
            can_promote: true,
            holes: BTreeSet::new(),
            audited: None,
            deletions: Deletions::default(),
        }
    }

    /// The same where the upload tells what its objects were made of: what is still
    /// on this machine is not fetched.
    #[must_use]
    pub fn with_uploaded(self, uploaded: Uploaded) -> Self {
        Self { uploaded, ..self }
    }

    /// Does one thing that is due, if there is one.
    ///
    /// # Errors
    /// Why not; nothing is lost by calling again later.
    pub async fn step(&mut self, now: Now) -> Result<Stepped, Error> {
        if !self.shelf.is_listed() || self.stop.is_stopped() {
            return Ok(Stepped::Idle { again: None });
        }
        match self.try_step(now).await {
            Err(error) if error.is_missing() => {
                tracing::info!(replica = self.replica.name(), %error, "a segment is gone, listing the replica again");
                self.audited = None;
                match self.audit(now).await? {
                    Some(stepped) => Ok(stepped),
                    None => Err(error),
                }
            }
            stepped => stepped,
        }
    }

    async fn try_step(&mut self, now: Now) -> Result<Stepped, Error> {
        // The listing that the upload began with counts as the first audit.
        let audited = *self.audited.get_or_insert(now.elapsed);
        let since = now.elapsed.saturating_sub(audited);
        let interval = self.audit_interval();
        if since >= interval
            && let Some(found) = self.audit(now).await?
        {
            return Ok(found);
        }
        if let Some(merge) = self.unfinished.take() {
            return self.merge(merge).await;
        }
        let mut again = vec![Some(interval.saturating_sub(since).max(SOON))];
        let items = self.shelf.items(now.elapsed, now.wall);
        let found = compact::merges(&items, &self.policy.levels, &self.aside);
        self.report_holes(&found.holes);
        if !found.ask.is_empty() {
            self.ask(&found.ask).await?;
            return Ok(Stepped::Worked);
        }
        if let Some(merge) = found.merge {
            return self.merge(merge).await;
        }
        again.push(found.again);
        let due = compact::snapshot(&items, &self.policy.snapshots, now.wall, self.shift, self.can_promote);
        if let Some(snapshot) = due.snapshot.filter(|snapshot| !self.is_hopeless(snapshot)) {
            return self.snapshot(snapshot).await;
        }
        again.push(due.again);
        match self.delete(&items, now).await? {
            delete::Round::Done => return Ok(Stepped::Worked),
            delete::Round::Found(found) => return Ok(found),
            delete::Round::Nothing { again: later } => again.push(later),
        }
        Ok(Stepped::Idle { again: again.into_iter().flatten().min() })
    }

    /// Segments of before this process say what they are.
    async fn ask(&self, segments: &[Segment]) -> Result<(), Error> {
        let headers = merge::headers(&self.replica, segments).await?;
        for (segment, header) in segments.iter().zip(headers) {
            self.shelf.learn(segment, header, false);
        }
        Ok(())
    }

    /// What the inputs say about themselves, asked of those that have not said it yet.
    async fn headers_of(&self, inputs: &[Segment]) -> Result<Vec<Header>, MergeError> {
        let unknown: Vec<Segment> = inputs.iter().filter(|i| self.shelf.header(i).is_none()).copied().collect();
        let asked = merge::headers(&self.replica, &unknown).await?;
        let mut asked = unknown.into_iter().zip(asked).collect::<HashMap<_, _>>();
        Ok(inputs.iter().filter_map(|i| asked.remove(i).or_else(|| self.shelf.header(i))).collect())
    }

    async fn make(&self, merge: &Merge) -> Result<(Segment, Header), MergeError> {
        let inputs = Inputs { headers: self.headers_of(&merge.inputs).await?, uploaded: self.uploaded.clone() };
        let made = merge::merge(&self.replica, merge, inputs, self.policy.encoding, &self.stop).await;
        match made {
            // Perhaps only the copies on this machine are damaged.
            Err(error) if error.is_of_inputs() && self.uploaded.oldest().is_some() => {
                self.uploaded.forget_all();
                let inputs = Inputs { headers: self.headers_of(&merge.inputs).await?, ..Inputs::default() };
                merge::merge(&self.replica, merge, inputs, self.policy.encoding, &self.stop).await
            }
            made => made,
        }
    }

    async fn merge(&mut self, merge: Merge) -> Result<Stepped, Error> {
        let made = self.make(&merge).await;
        let verified = match made {
            Ok((segment, _)) if self.policy.verify => merge::verify(&self.replica, segment, &self.stop).await.and(made),
            made => made,
        };
        let (segment, header) = match verified {
            Ok(made) => made,
            Err(error) if error.is_of_inputs() && !self.stop.is_stopped() => return Ok(self.set_aside(&merge, &error)),
            Err(error) => {
                self.unfinished = Some(merge).filter(|_| !error.is_missing());
                return Err(error.into());
            }
        };
        self.shelf.put(segment, header);
        if merge.level > Level::L0 && merge.level < Level::SNAPSHOT {
            self.uploaded.forget_through(merge.txids.max());
        }
        tracing::debug!(
            replica = self.replica.name(),
            level = segment.level.get(),
            minTXID = segment.txids.min().to_string(),
            maxTXID = segment.txids.max().to_string(),
            inputs = merge.inputs.len(),
            size = segment.size,
            "compaction complete"
        );
        Ok(Stepped::Worked)
    }

    /// What cannot be merged stays as it is. Where a restore would meet the same
    /// trouble, a new base is called for.
    fn set_aside(&mut self, merge: &Merge, error: &MergeError) -> Stepped {
        let damaged = match error {
            MergeError::Inputs(error) => error.is_damage(),
            _ => true,
        };
        // What lies before a snapshot is not needed for the newest point.
        let listing = self.shelf.listing();
        let bygone = listing.segments().any(|s| s.txids.is_snapshot() && s.txids.max() >= merge.txids.max());
        let needs_base = (damaged && !bygone) || merge.level == Level::SNAPSHOT;
        tracing::error!(
            replica = self.replica.name(),
            level = merge.level.get(),
            minTXID = merge.txids.min().to_string(),
            maxTXID = merge.txids.max().to_string(),
            error = error as &dyn std::error::Error,
            "segments cannot be merged and are left as they are"
        );
        if merge.level == Level::SNAPSHOT {
            self.hopeless = merge.inputs.first().copied();
        } else {
            self.aside.extend(merge.inputs.iter().map(|input| (input.level, input.txids)));
        }
        match needs_base {
            true => Stepped::LookAgain { needs_base, strangers: Vec::new() },
            false => Stepped::Worked,
        }
    }

    fn is_hopeless(&self, snapshot: &Snapshot) -> bool {
        match snapshot {
            Snapshot::Merge(merge) => self.hopeless.is_some() && merge.inputs.first().copied() == self.hopeless,
            Snapshot::Promote(_) => false,
        }
    }

    async fn snapshot(&mut self, snapshot: Snapshot) -> Result<Stepped, Error> {
        let base = match snapshot {
            Snapshot::Merge(merge) => return self.merge(merge).await,
            Snapshot::Promote(base) => base,
        };
        let header = self.replica.read_header(&base).await?;
        if self.replica.copy(&base, Level::SNAPSHOT).await? {
            self.shelf.put(Segment { level: Level::SNAPSHOT, ..base }, header);
        } else {
            self.can_promote = false;
        }
        Ok(Stepped::Worked)
    }

    /// Lists again and compares. `Some`: the upload must look too.
    async fn audit(&mut self, now: Now) -> Result<Option<Stepped>, Error> {
        let (mark, before) = (self.shelf.begin_listing(), self.shelf.listing());
        let listing = self.replica.list_all().await?;
        let mut found = Audit::compare(&before, &self.shelf.listing(), &listing);
        // A listing can be behind; asking for the segment itself cannot.
        let mut missing = Vec::new();
        for segment in std::mem::take(&mut found.missing) {
            match self.replica.read_header(&segment).await {
                Err(error) if error.is_missing() => missing.push(segment),
                Err(error) => return Err(error.into()),
                Ok(_) => found.late.push(segment),
            }
        }
        self.shelf.replace(mark, listing.segments().copied().chain(found.late.iter().copied()).collect());
        self.audited = Some(now.elapsed);
        self.holes.clear();
        for segment in &missing {
            tracing::error!(
                replica = self.replica.name(),
                segment = self.replica.key(segment.level, segment.txids).to_string(),
                "a segment is gone that was not deleted by this program"
            );
        }
        for segment in &found.strangers {
            tracing::warn!(
                replica = self.replica.name(),
                segment = self.replica.key(segment.level, segment.txids).to_string(),
                "a segment is there that was not written by this program"
            );
        }
        let listing = self.shelf.listing();
        let needs_base = listing.gap_free_end() != listing.position();
        if missing.is_empty() && found.strangers.is_empty() && !needs_base {
            return Ok(None);
        }
        Ok(Some(Stepped::LookAgain { needs_base, strangers: found.strangers }))
    }

    /// Each replica has its own, up to an eighth shorter, so that many that were
    /// opened together are not all listed together.
    fn audit_interval(&self) -> Duration {
        let interval = self.policy.audit_interval;
        let share = u32::try_from(self.shift >> 32).unwrap_or(u32::MAX);
        let nanos = (interval / 8).as_nanos().saturating_mul(u128::from(share)) >> 32;
        interval.saturating_sub(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
    }

    fn report_holes(&mut self, holes: &[(Level, TxidRange)]) {
        for (level, missing) in holes {
            if self.holes.insert((*level, *missing)) {
                tracing::error!(
                    replica = self.replica.name(),
                    level = level.get(),
                    missing = missing.to_string(),
                    "nothing is merged into this level: transactions are missing below it"
                );
            }
        }
    }

    fn keep_items(&self, now: Now) -> Vec<Item> {
        self.shelf.items(now.elapsed, now.wall)
    }
}

/// No reason to look again is nearer than this.
const SOON: Duration = Duration::from_secs(1);
