//! Databases that come and go while the daemon runs: watched directories of the
//! config, looked at when something in them has changed.
//!
//! Always true: a look that failed changes nothing; letting go of a database,
//! with its last upload, delays neither a look nor another database.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::AbortHandle;

use super::error::CliError;
use super::open::{self, Places};
use super::replicate::take_up;
use crate::config::{Config, Database, Directory};
use crate::daemon::Daemon;
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
    /// Begins. `databases` are those that the daemon has; letting go of one takes
    /// no longer than `patience`.
    pub(super) fn start(
        daemon: &Arc<Daemon>,
        config: &Config,
        databases: &[Database],
        places: Places,
        patience: Duration,
    ) -> Self {
        let directories: Vec<Directory> = config.directories().iter().filter(|d| d.watch).cloned().collect();
        let held = |path: &Path| directories.iter().any(|directory| directory.holds(path));
        let own_entry = config.databases().unwrap_or_default().iter().map(|database| database.path.clone()).collect();
        let mut watcher = Watcher {
            daemon: daemon.clone(),
            followed: databases.iter().filter(|d| held(&d.path)).map(|d| (d.path.clone(), file_id(&d.path))).collect(),
            own_entry,
            directories,
            places: Arc::new(Mutex::new(places)),
            patience,
            told: HashSet::new(),
            news: None,
        };
        let task = tokio::spawn(async move {
            if !watcher.directories.is_empty() {
                watcher.run().await;
            }
        });
        Self(task.abort_handle())
    }
}

struct Watcher {
    daemon: Arc<Daemon>,
    directories: Vec<Directory>,
    /// Databases with an entry of their own: they stay, whatever a directory shows.
    own_entry: BTreeSet<PathBuf>,
    followed: BTreeMap<PathBuf, FileId>,
    places: Arc<Mutex<Places>>,
    patience: Duration,
    /// Troubles that were told once.
    told: HashSet<String>,
    news: Option<News>,
}

impl Watcher {
    async fn run(&mut self) {
        match News::new() {
            Ok(news) => self.news = Some(news),
            Err(error) => self.tell(format!("directories are looked at every few seconds: {error}")),
        }
        loop {
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
        let (directories, followed) = (&self.directories, &self.followed);
        let heard = match &mut self.news {
            Some(news) => news.next(|path, written| matters(directories, followed, path, written)).await,
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
        for directory in self.directories.clone() {
            let (daemon, own_entry, holder) = (self.daemon.clone(), self.own_entry.clone(), directory.clone());
            let followed: HashSet<PathBuf> = self.followed.keys().cloned().collect();
            let work = tokio::task::spawn_blocking(move || {
                let known = |path: &Path, file| followed.contains(path) || daemon.follows_file(file);
                look_at(&holder, &known, &own_entry)
            });
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
            let of_this: BTreeMap<PathBuf, FileId> = self
                .followed
                .iter()
                .filter(|(path, _)| directory.holds(path))
                .map(|(path, file)| (path.clone(), *file))
                .collect();
            let changes = changes(&of_this, &scan.databases, &scan.aliases);
            changes.removed.iter().for_each(|path| self.remove(path));
            for path in changes.added {
                again |= self.add(&directory, &path).is_none();
            }
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

    /// `None`: not now.
    fn add(&mut self, directory: &Directory, path: &Path) -> Option<()> {
        let added = directory.database(path).map_err(CliError::from).and_then(|database| {
            self.places.lock().unwrap_or_else(PoisonError::into_inner).take(&database)?;
            let handed = open::job(&database).and_then(|job| take_up(&self.daemon, &database, job, true));
            if handed.is_err() {
                self.places.lock().unwrap_or_else(PoisonError::into_inner).free(path);
            }
            handed
        });
        match added {
            Ok(()) => {
                self.followed.insert(path.to_owned(), file_id(path));
                tracing::info!(path = path.display().to_string(), "added database to replication");
                Some(())
            }
            Err(error) => {
                self.tell(format!("cannot replicate {}: {error}", path.display()));
                None
            }
        }
    }

    fn remove(&mut self, path: &Path) {
        self.followed.remove(path);
        let (daemon, places, patience, path) =
            (self.daemon.clone(), self.places.clone(), self.patience, path.to_owned());
        tokio::spawn(async move {
            let shown = path.display().to_string();
            let Some(id) = daemon.find(&path) else { return };
            match daemon.remove(id, patience).await {
                Ok(unconfirmed) => {
                    for lost in unconfirmed {
                        let replica = lost.replica.unwrap_or_else(|| "-".to_owned());
                        tracing::error!(path = shown, replica, reason = lost.reason, "not replicated before it went");
                    }
                    tracing::info!(path = shown, "removed database from replication");
                }
                Err(error) => tracing::error!(path = shown, error = error.to_string(), "cannot let go of database"),
            }
            places.lock().unwrap_or_else(PoisonError::into_inner).free(&path);
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
/// In place of a file that has gone.
const NO_FILE: FileId = (0, 0);

fn file_id(path: &Path) -> FileId {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(NO_FILE, |meta| (meta.dev(), meta.ino()))
}

fn look_at(
    directory: &Directory,
    known: &dyn Fn(&Path, FileId) -> bool,
    own_entry: &BTreeSet<PathBuf>,
) -> io::Result<(Scan, Vec<PathBuf>)> {
    let mut entered = Vec::new();
    let wanted = Wanted {
        enter: &|dir| directory.recursive && !Directory::is_state(dir),
        file: &|path| directory.holds(path) && !own_entry.contains(path),
        entering: &mut |dir| entered.push(dir.to_owned()),
        known,
    };
    let scan = scan(&directory.dir, wanted)?;
    Ok((scan, entered))
}

/// Whether an event can mean that a database has come or gone. What is written to
/// those that are followed, and what SQLite makes and removes beside them, does not.
fn matters(directories: &[Directory], followed: &BTreeMap<PathBuf, FileId>, path: &Path, only_written: bool) -> bool {
    let held = |path: &Path| directories.iter().any(|directory| directory.holds(path));
    if held(path) {
        return !only_written || !followed.contains_key(path);
    }
    // The first sign of a database that is just being made.
    let beside = path.to_str().and_then(|path| ["-wal", "-journal"].iter().find_map(|end| path.strip_suffix(end)));
    beside.is_some_and(|main| held(Path::new(main)) && !followed.contains_key(Path::new(main)))
}
