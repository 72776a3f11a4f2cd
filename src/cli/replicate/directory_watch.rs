//! Databases that come and go while the daemon runs: watched directories of the
//! config, looked at when something in them has changed.
//!
//! Always true: a look that failed changes nothing; letting go of a database,
//! with its last upload, delays neither a look nor another database.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::AbortHandle;

use super::fleet::Fleet;
use crate::config::Directory;
use crate::daemon::RegistryError;
use crate::directory::{FileId, Heard, News, Scan, Wanted, changes, scan};

/// Names that come within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(250);
/// Looks take no more than this share of the time: one in so many.
const SHARE: u32 = 20;
/// However long a look takes, what comes is found within about this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A look for what events may have missed.
const NOW_AND_THEN: Duration = Duration::from_secs(60);
/// The same where there are no events.
const WITHOUT_EVENTS: Duration = Duration::from_secs(5);
/// After something could not be done, or a file was there and no database yet.
const SOON: Duration = Duration::from_secs(1);

/// Watches until it is dropped.
pub(super) struct DirectoryWatch(AbortHandle);

impl Drop for DirectoryWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DirectoryWatch {
    /// Begins.
    pub(super) fn start(fleet: &Arc<Fleet>) -> Self {
        let mut watcher = Watcher { fleet: fleet.clone(), told: HashSet::new(), news: None };
        let task = tokio::spawn(async move {
            watcher.run().await;
        });
        Self(task.abort_handle())
    }
}

struct Watcher {
    fleet: Arc<Fleet>,
    /// Troubles that were told once.
    told: HashSet<String>,
    news: Option<News>,
}

impl Watcher {
    async fn run(&mut self) {
        let mut begun_to_listen = false;
        loop {
            if self.fleet.watched().is_empty() {
                // A reload may bring one.
                tokio::time::sleep(NOW_AND_THEN).await;
                continue;
            }
            if !std::mem::replace(&mut begun_to_listen, true) {
                match News::new() {
                    Ok(news) => self.news = Some(news),
                    Err(error) => self.tell(format!("directories are looked at every few seconds: {error}")),
                }
            }
            let begun = Instant::now();
            let unsure = self.look().await;
            let pause = (begun.elapsed() * SHARE).clamp(SETTLE, LONGEST_PAUSE);
            let rest = match (unsure, &self.news) {
                (true, _) => SOON,
                (false, Some(_)) => NOW_AND_THEN,
                (false, None) => WITHOUT_EVENTS,
            };
            let _ = tokio::time::timeout(rest.max(pause), self.heard()).await;
            tokio::time::sleep(pause).await;
            // What has come meanwhile is seen by the same look.
            while self.heard().now_or_never().is_some() {}
        }
    }

    /// Waits for news.
    async fn heard(&mut self) {
        let fleet = &self.fleet;
        let heard = match &mut self.news {
            Some(news) => news.next(|path, written| matters(fleet, path, written)).await,
            None => std::future::pending().await,
        };
        match heard {
            Ok(Heard::Change) => {}
            Ok(Heard::Overflow) => {
                tracing::warn!("more has changed in directories than the system could tell: looking");
            }
            Err(error) => {
                self.news = None;
                self.tell(format!("directories are looked at every few seconds from now on: {error}"));
            }
        }
    }

    /// Looks at all directories and does what has to be done. `true` if it should be done again soon.
    async fn look(&mut self) -> bool {
        let mut again = false;
        for directory in self.fleet.watched() {
            let (fleet, holder) = (self.fleet.clone(), directory.clone());
            let looker = fleet.clone();
            let work = tokio::task::spawn_blocking(move || look_at(&holder, &looker));
            let (scan, entered) = match work.await {
                Ok(Ok(seen)) => seen,
                Ok(Err(error)) => {
                    let dir = directory.dir.display();
                    self.tell(format!("cannot look into directory {dir}, nothing is added or removed: {error}"));
                    again = true;
                    continue;
                }
                Err(_) => continue,
            };
            again |= self.listen(&entered);
            again |= scan.candidates > 0;
            for (alias, first) in &scan.aliases {
                let (alias, first) = (alias.display(), first.display());
                self.tell(format!("{alias} is the same file as {first}: it is replicated under one name only"));
            }
            // Not while a reload changes the same.
            let turn = fleet.turn().await;
            let of_this = self.fleet.found_in(&directory).into_iter().map(|path| (path, NO_FILE)).collect();
            let changes = changes(&of_this, &scan.databases, &scan.aliases);
            changes.removed.into_iter().for_each(|path| self.remove(path));
            let troubles = self.fleet.take_up_found(&directory, &changes.added).await;
            again |= !troubles.is_empty();
            drop(turn);
            troubles.into_iter().for_each(|trouble| self.tell(trouble));
        }
        again
    }

    /// Hears of these directories from now on; `true` if something may have come just before.
    fn listen(&mut self, dirs: &[PathBuf]) -> bool {
        let mut new = false;
        for dir in dirs {
            let Some(news) = &mut self.news else { return new };
            match news.listen(dir) {
                Ok(first_time) => new |= first_time,
                Err(error) if error.kind() == io::ErrorKind::NotFound => new = true,
                Err(error) => {
                    self.news = None;
                    let dir = dir.display();
                    self.tell(format!("no events for {dir}, directories are looked at every few seconds: {error}"));
                }
            }
        }
        new
    }

    fn remove(&self, path: PathBuf) {
        let fleet = self.fleet.clone();
        tokio::spawn(async move {
            let shown = path.display().to_string();
            match fleet.let_go_of_found(&path).await {
                Ok(unconfirmed) => {
                    for lost in unconfirmed {
                        let replica = lost.replica.unwrap_or_else(|| "-".to_owned());
                        tracing::error!(path = shown, replica, reason = lost.reason, "not replicated before it went");
                    }
                    tracing::info!(path = shown, "removed database from replication");
                }
                Err(RegistryError::NotThere) => {}
                Err(error) => tracing::error!(path = shown, error = error.to_string(), "cannot let go of database"),
            }
        });
    }

    /// Each trouble once.
    fn tell(&mut self, text: String) {
        if self.told.len() > MOST_TOLD {
            self.told.clear();
        }
        if self.told.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }
}

/// Troubles remembered, so that each is told once.
const MOST_TOLD: usize = 10_000;
/// What is followed is told by its path.
const NO_FILE: FileId = (0, 0);

fn look_at(directory: &Directory, fleet: &Fleet) -> io::Result<(Scan, Vec<PathBuf>)> {
    let mut entered = Vec::new();
    let own_entry = fleet.with_own_entry();
    let wanted = Wanted {
        enter: &|dir| directory.recursive && !Directory::is_state(dir),
        file: &|path| directory.holds(path) && !own_entry.contains(path),
        entering: &mut |dir| entered.push(dir.to_owned()),
        known: &|path, file| fleet.has_open(path, file),
    };
    let scan = scan(&directory.dir, wanted)?;
    Ok((scan, entered))
}

/// Whether an event can mean that a database has come or gone. What is written to
/// those that are followed, and what SQLite makes and removes beside them, does not.
fn matters(fleet: &Fleet, path: &Path, only_written: bool) -> bool {
    if fleet.is_held(path) {
        return !only_written || fleet.daemon.find(path).is_none();
    }
    // The first sign of a database that is just being made.
    let beside = path.to_str().and_then(|path| ["-wal", "-journal"].iter().find_map(|end| path.strip_suffix(end)));
    beside.map(Path::new).is_some_and(|main| fleet.is_held(main) && fleet.daemon.find(main).is_none())
}
