//! Whether a storage does what brooklet needs of it, found out by trying.
//!
//! Always true: nothing of a replica is touched. What is written lies beside the
//! levels under names that no listing of segments shows, and is removed again if
//! that is allowed; what could not be removed is named. A crash can leave it too.
//!
//! Trying (`probe`) and judging ([`judge()`]) are apart: what was observed are
//! plain values, and every sentence follows from them.

mod judge;
mod probe;
mod settings;
mod usage;

use serde::Serialize;

pub use judge::{Facts, Seen, Stamp, Step, judge};
pub use probe::Probe;
pub use settings::{remarks, without_conditions};
pub use usage::{Usage, usage};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// brooklet works, but somebody should know.
    Warning,
    /// Something that brooklet needs does not work.
    Failed,
    /// Not tried, or not to be seen from here.
    Skipped,
}

impl Verdict {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word.
    pub check: &'static str,
    /// How much it matters.
    pub result: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, if there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(check: &'static str, result: Verdict, found: impl Into<String>) -> Self {
        Self { check, result, found: found.into(), advice: None }
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}
