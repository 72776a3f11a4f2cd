//! Keeping a restored database up to date while others read it.
//!
//! Always true: readers see the database as it was at one transaction, whole (see
//! [`super::inplace`]). The position beside it, `<database>-txid`, is written
//! after what it speaks of is on disk, so it is right or too low, and applying
//! again what is there already changes nothing. Every step ends with the database
//! checksum that was recorded for that transaction, where one was recorded; when
//! it does not, or no segment leads on from the position, all pages are written
//! anew, in one step for the readers as well.
//!
//! A crash can leave the database behind its position file by nothing and ahead
//! of it by one step, with a journal that SQLite rolls back, and drafts beside it
//! that the next start removes.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::durable;
use crate::durable::Draft;
use crate::ltx::Level;
use crate::replica::Replica;
use crate::types::{Pgno, Txid, lock_page};

use super::apply::{Applied, Trust, apply};
use super::error::{FollowError, RestoreError};
use super::fetch::Fetcher;
use super::inplace::{Change, InPlace};
use super::local::{self, Local, followed};
use super::output::{Output, beside};
use super::pages::{Ground, Progress};
use super::plan::{Holdings, Plan, PlanError};
use super::survey;
use super::{Options, Target, fill_draft, unpanicked, verify};

/// How long new segments are expected at level 0 only. A replica whose level 0
/// was emptied by somebody else is noticed after that.
const FULL_LOOK: Duration = Duration::from_secs(30);

/// A database that follows a replica.
pub struct Follower {
    replica: Replica,
    fetcher: Fetcher,
    output: Output,
    database: Arc<InPlace>,
    local: Local,
    position: Txid,
    /// Whether the database was seen to be that transaction.
    proven: bool,
    looked: Option<Instant>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progressed {
    /// The transaction before.
    pub from: Txid,
    /// The transaction now.
    pub to: Txid,
}

impl Follower {
    /// Restores the newest state, or takes up where an earlier run stopped.
    pub async fn start(
        replicas: &[Replica],
        path: &Path,
        options: &Options,
        progress: &Arc<Progress>,
    ) -> Result<Self, RestoreError> {
        let [replica] = replicas else {
            let names = replicas.iter().map(|replica| replica.name().to_owned()).collect();
            return Err(RestoreError::WhichReplica { names });
        };
        let output = Output::inspect(path, true)?;
        let fetcher = Fetcher::new(replica.clone(), options.parallelism, options.limits);
        let saved = if output.is_taken() { saved_position(output.path())? } else { None };
        match saved {
            Some(position) => Self::resume(replica, fetcher, output, position).await,
            None if output.is_taken() && !options.overwrite => {
                let (path, position) = (output.path().to_path_buf(), position_of(output.path()));
                Err(FollowError::NoPosition { path, position }.into())
            }
            None => Self::begin(replica, fetcher, output, options, progress).await,
        }
    }

    /// The transaction that the database shows.
    pub fn position(&self) -> Txid {
        self.position
    }

    async fn begin(
        replica: &Replica,
        fetcher: Fetcher,
        output: Output,
        options: &Options,
        progress: &Arc<Progress>,
    ) -> Result<Self, RestoreError> {
        let candidate = survey::look(replica, Target::Latest).await?;
        let (draft, _) = fill_draft(&candidate, &fetcher, &output, progress).await?;
        verify::check(draft.path(), options.integrity_check).await?;
        let position = candidate.plan.end();
        let prepared = {
            let output = output.clone();
            tokio::task::spawn_blocking(move || {
                let local = as_followed(&draft).map_err(write(draft.path()))?;
                // Without a database it is not looked at; beside another
                // database it would be a lie.
                if !output.is_taken() {
                    save_position(output.path(), position, durable::PRIVATE_FILE)?;
                }
                Ok::<_, RestoreError>((draft, local))
            })
        };
        let (draft, local) = unpanicked(prepared.await)?;
        output.clone().publish(draft).await?;
        save_position(output.path(), position, durable::PRIVATE_FILE)?;
        tracing::info!(txid = %position, time = %candidate.time, "database restored");
        let database = open(output.path()).await?;
        Ok(Self { replica: replica.clone(), fetcher, output, database, local, position, proven: true, looked: None })
    }

    async fn resume(replica: &Replica, fetcher: Fetcher, output: Output, saved: Txid) -> Result<Self, RestoreError> {
        tracing::info!(output = %output.path().display(), txid = %saved, "resuming follow mode from crash recovery");
        let database = open(output.path()).await?;
        let reading = Arc::clone(&database);
        let local = unpanicked(tokio::task::spawn_blocking(move || Local::read(reading.file())).await);
        let local = local.map_err(write(output.path()))?.ok_or_else(|| no_database(output.path()))?;
        let holdings = survey::holdings(replica).await?;
        let newest = holdings.position().ok_or(PlanError::NoBackup)?;
        if saved > newest {
            let path = output.path().to_path_buf();
            return Err(FollowError::Ahead { path, position: saved, newest }.into());
        }
        // A crash between a step and its position leaves the position too low.
        let sums = [local.sum.checksum(), local.true_sum.checksum()];
        let found = local::find(replica, &holdings, newest, sums).await?;
        let position = found.map_or(saved, |(txid, _)| txid);
        let proven = found.is_some();
        let path = output.path();
        for target in [path, &position_of(path)] {
            durable::remove_stale_drafts_of(target).map_err(FollowError::from)?;
        }
        if position != saved {
            save_position(path, position, mode_of(&database))?;
        }
        Ok(Self { replica: replica.clone(), fetcher, output, database, local, position, proven, looked: None })
    }

    /// Applies what the replica has by now; `None` if that is nothing new.
    pub async fn step(&mut self) -> Result<Option<Progressed>, RestoreError> {
        let Some(way) = self.way().await? else { return Ok(None) };
        let outcome = match way {
            Way::On(plan) => match self.carry_on(&plan).await {
                Err(error) if is_disagreement(&error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "follow: cannot carry on from what is here, writing all pages anew");
                    let holdings = survey::holdings(&self.replica).await?;
                    self.write_anew(&holdings.latest()?).await
                }
                outcome => outcome,
            },
            Way::Anew(plan) => self.write_anew(&plan).await,
        };
        outcome.map(Some)
    }

    /// Which way leads on from here.
    async fn way(&mut self) -> Result<Option<Way>, RestoreError> {
        let list = |source| RestoreError::List { replica: self.replica.name().to_owned(), source };
        let fresh = Holdings::new(self.replica.list_after(Level::L0, self.position).await.map_err(list)?);
        if let Some(newest) = fresh.position()
            && self.proven
            && let Some(plan) = fresh.onward(self.position, newest)
        {
            return Ok(Some(Way::On(plan)));
        }
        let nothing_new = fresh.position().is_none();
        if nothing_new && self.looked.is_some_and(|looked| looked.elapsed() < FULL_LOOK) {
            return Ok(None);
        }
        self.looked = Some(Instant::now());
        let holdings = survey::holdings(&self.replica).await?;
        let Some(newest) = holdings.position() else { return Ok(None) };
        if newest < self.position {
            let path = self.output.path().to_path_buf();
            return Err(FollowError::Ahead { path, position: self.position, newest }.into());
        }
        if newest > self.position {
            return Ok(Some(match holdings.onward(self.position, newest) {
                Some(plan) => Way::On(plan),
                None => Way::Anew(holdings.latest()?),
            }));
        }
        if self.proven {
            return Ok(None);
        }
        // The replica would have known this database by its checksum, if it
        // records any: then this is not the one it should be.
        let plan = holdings.latest()?;
        let end = plan.segments().last().expect("a plan is never empty");
        self.proven = self.replica.read_header(end).await?.proof.is_none();
        Ok((!self.proven).then_some(Way::Anew(plan)))
    }

    async fn carry_on(&mut self, plan: &Plan) -> Result<Progressed, RestoreError> {
        let ground = Ground::Older(Arc::clone(self.database.file()), self.local);
        self.advance(plan, ground).await
    }

    async fn write_anew(&mut self, plan: &Plan) -> Result<Progressed, RestoreError> {
        self.advance(plan, Ground::Nothing).await
    }

    async fn advance(&mut self, plan: &Plan, ground: Ground) -> Result<Progressed, RestoreError> {
        let draft = self.output.draft()?;
        let applied = apply(plan, &self.fetcher, &draft, ground, Trust::Proof, &Arc::default()).await?;
        let to = plan.end();
        let local = Local {
            page_size: applied.end.page_size,
            pages: applied.end.commit,
            sum: applied.sum,
            true_sum: applied.sum,
        };
        let (database, path) = (Arc::clone(&self.database), self.output.path().to_path_buf());
        let writing = tokio::task::spawn_blocking(move || put_in_place(&database, &path, &draft, &applied, to));
        unpanicked(writing.await)?;
        let from = std::mem::replace(&mut self.position, to);
        self.local = local;
        self.proven = true;
        Ok(Progressed { from, to })
    }
}

enum Way {
    /// From the position to the newest transaction.
    On(Plan),
    /// From the beginning.
    Anew(Plan),
}

/// What is here and what the replica says do not add up.
fn is_disagreement(error: &RestoreError) -> bool {
    matches!(
        error,
        RestoreError::Checksum { .. }
            | RestoreError::MissingPage { .. }
            | RestoreError::Unlinked { .. }
            | RestoreError::PageSize { .. }
    )
}

fn put_in_place(
    database: &InPlace,
    path: &Path,
    draft: &Draft,
    applied: &Applied,
    to: Txid,
) -> Result<(), FollowError> {
    let lock = lock_page(applied.end.page_size);
    let mut pages = applied.written.claimed().filter(|pgno| *pgno != lock);
    let (page_size, commit) = (applied.end.page_size, applied.end.commit);
    database.apply(Change { staged: draft.file(), pages: &mut pages, page_size, commit })?;
    save_position(path, to, mode_of(database))
}

/// Whoever may read the database may read its position.
fn mode_of(database: &InPlace) -> u32 {
    database.file().metadata().map_or(durable::PRIVATE_FILE, |found| found.mode() & 0o777)
}

async fn open(path: &Path) -> Result<Arc<InPlace>, RestoreError> {
    let path = path.to_path_buf();
    let opening = tokio::task::spawn_blocking(move || InPlace::open(&path));
    Ok(Arc::new(unpanicked(opening.await).map_err(FollowError::from)?))
}

/// Turns page 1 of a new database into that of a followed one.
fn as_followed(draft: &Draft) -> io::Result<Local> {
    let local = Local::read(draft.file())?.ok_or_else(|| io::Error::other("what was restored is not a database"))?;
    let mut page = vec![0; local.page_size.bytes()];
    draft.file().read_exact_at(&mut page, Pgno::FIRST.offset(local.page_size))?;
    let counter = local::counter(&page);
    followed(&mut page, counter);
    draft.file().write_all_at(&page, 0)?;
    Ok(Local { true_sum: local.sum, ..local })
}

fn position_of(path: &Path) -> PathBuf {
    beside(path, "-txid")
}

fn saved_position(path: &Path) -> Result<Option<Txid>, FollowError> {
    let path = position_of(path);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let digits = text.trim();
            let number = if digits.len() == 16 { u64::from_str_radix(digits, 16).ok() } else { None };
            let wrong = || io::Error::other(format!("{digits:?} is not a transaction number of 16 hex digits"));
            let txid = number.and_then(Txid::new).ok_or_else(wrong);
            txid.map(Some).map_err(|source| FollowError::Position { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FollowError::Position { path, source }),
    }
}

fn save_position(path: &Path, position: Txid, mode: u32) -> Result<(), FollowError> {
    durable::replace(&position_of(path), format!("{position}\n").as_bytes(), mode)?;
    Ok(())
}

fn no_database(path: &Path) -> RestoreError {
    let (path, position) = (path.to_path_buf(), position_of(path));
    FollowError::NoPosition { path, position }.into()
}

fn write(path: &Path) -> impl FnOnce(io::Error) -> RestoreError + use<> {
    let path = path.to_path_buf();
    move |source| RestoreError::Write { path, source }
}
