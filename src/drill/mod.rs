//! Rehearsing restores, so that the first one that matters is not the first one.
//!
//! Always true: a rehearsal changes nothing on a replica and nothing of the
//! database. It succeeds only if the newest data was read in whole and everything
//! agreed; having nothing to read is a failure. What it writes is below its
//! scratch directory, and gone when it ends. A crash can leave the scratch
//! directory; the next rehearsal that uses it begins by removing it.

mod checks;
pub mod plan;
mod record;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::audit::{self, ChainProof, Finding, Report, Scope, audit};
use crate::durable;
use crate::replica::Replica;
use crate::restore::{IntegrityCheck, Older, Options, Outcome, Progress, RestoreError, restore_any};
use crate::types::{Timestamp, Txid};

pub use checks::CheckError;
pub use record::{LastProof, Records};

/// How to rehearse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Read everything a restore needs, and add it up.
    Stream,
    /// Restore into a scratch file, and ask SQLite and the user's own SQL.
    Full {
        /// A directory that is ours alone; need not exist.
        scratch: PathBuf,
        /// Statements that the restored database is asked; each must return no
        /// row, or `ok` or a number other than zero as the first value.
        checks: Vec<String>,
    },
}

/// What a rehearsal has proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The newest transaction; `None` in a backup of Litestream 0.3.
    pub txid: Option<Txid>,
    /// The time of the newest data.
    pub time: Timestamp,
    /// Whether the pages add up to the recorded checksum of the database.
    pub by_database_checksum: bool,
    /// Bytes of the objects that were needed.
    pub bytes: u64,
    /// How long it took: about what a restore takes.
    pub took: Duration,
}

/// Why a rehearsal failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The replica could not be looked at.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// There is nothing.
    #[error("no matching backup: nothing is stored on replica {replica}")]
    Nothing {
        /// Its name.
        replica: String,
    },
    /// What is there is not what it should be.
    #[error("{0}: {advice}", advice = .0.advice())]
    Found(Finding),
    /// The restore failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The scratch directory could not be used.
    #[error("cannot use {} for a rehearsal", path.display())]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The restored database does not do what its owner expects.
    #[error(transparent)]
    Check(#[from] CheckError),
}

impl Error {
    /// Whether a fresh copy of the database would help, as far as one can tell.
    pub fn is_of_data(&self) -> bool {
        match self {
            Self::Found(finding) => !matches!(finding, Finding::Unreadable { .. }),
            Self::Nothing { .. } => true,
            Self::Restore(error) => error.is_of_data(),
            // What was restored is what was captured: a new copy would say the same.
            Self::Check(_) => false,
            Self::Audit(_) | Self::Scratch { .. } => false,
        }
    }
}

/// Rehearses a restore of the newest data from one replica.
pub async fn rehearse(replica: &Replica, mode: &Mode) -> Result<Proven, Error> {
    match mode {
        Mode::Stream => stream(replica).await,
        Mode::Full { scratch, checks } => {
            let place = Scratch::new(scratch)?;
            full(replica, place.dir(), checks).await
        }
    }
}

async fn stream(replica: &Replica) -> Result<Proven, Error> {
    let started = Instant::now();
    let report = audit(replica, Scope::Chain, SystemTime::now().into()).await?;
    judge(replica, report, started.elapsed())
}

fn judge(replica: &Replica, report: Report, took: Duration) -> Result<Proven, Error> {
    let problem = report.findings.into_iter().find(|finding| finding.weight() == audit::Weight::Problem);
    if let Some(problem) = problem {
        return Err(Error::Found(problem));
    }
    let nothing = || Error::Nothing { replica: replica.name().to_owned() };
    if let Some(segments) = report.segments {
        let (_, newest) = segments.range.ok_or_else(nothing)?;
        return match segments.proof {
            ChainProof::None => Err(nothing()),
            proof => Ok(Proven {
                txid: Some(newest.txid),
                time: newest.time,
                by_database_checksum: proof == ChainProof::Database,
                bytes: segments.sizes.bytes,
                took,
            }),
        };
    }
    let older = report.older.ok_or_else(nothing)?;
    let (_, time) = older.range.ok_or_else(nothing)?;
    Ok(Proven { txid: None, time, by_database_checksum: false, bytes: older.sizes.bytes, took })
}

async fn full(replica: &Replica, dir: &Path, checks: &[String]) -> Result<Proven, Error> {
    let started = Instant::now();
    let path = dir.join("rehearsal.db");
    let options = Options { integrity_check: IntegrityCheck::Full, ..Options::default() };
    let replicas = std::slice::from_ref(replica);
    let progress = Arc::new(Progress::default());
    let outcome = restore_any(replicas, &path, &options, &Older::default(), &progress).await?;
    let took = started.elapsed();
    let checks = checks.to_vec();
    let asked = tokio::task::spawn_blocking(move || checks::ask_all(&path, &checks));
    match asked.await {
        Ok(answer) => answer?,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("a task was cancelled: {error}"),
        },
    }
    Ok(match outcome {
        Outcome::Segments(report) => Proven {
            txid: Some(report.candidate.plan.end()),
            time: report.candidate.time,
            by_database_checksum: report.evidence == crate::restore::Evidence::Database,
            bytes: report.candidate.plan.size(),
            took,
        },
        Outcome::Older(report) => Proven {
            txid: None,
            time: report.plan.time(),
            by_database_checksum: false,
            bytes: report.plan.size(),
            took,
        },
    })
}

/// A directory that is removed with all it holds.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Scratch { path: path.to_path_buf(), source };
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        durable::create_dir_all(path, durable::PRIVATE_DIR).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self(path.to_path_buf()))
    }

    fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next rehearsal.
        let _ = fs::remove_dir_all(&self.0);
    }
}
