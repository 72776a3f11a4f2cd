//! Carries out a script: applications, a follower and their databases in one
//! directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::oracle;
use super::process::{App, Follower, Program, Stopped};
use super::rng::Rng;
use super::script::{Action, Confirm, Incident, Round, Script, Settings};

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What was restored is not what it should be.
    Diverged(String),
    /// Something did not happen that should have.
    Stuck(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Diverged(reason) => write!(f, "diverged: {reason}"),
            Self::Stuck(reason) => write!(f, "stuck: {reason}"),
        }
    }
}

pub(crate) struct Stage {
    dir: PathBuf,
    databases: Vec<Database>,
    follower: Follower,
}

struct Database {
    path: PathBuf,
    apps: Vec<App>,
    /// An application was killed, perhaps between writing a commit to the log and
    /// publishing it. Until the next commit decides, a copy of the files may show
    /// a transaction that no process sees.
    unpublished: bool,
    /// What it was at the end of the last round.
    earlier: PathBuf,
    /// The same with its log.
    image: PathBuf,
}

impl Stage {
    pub(crate) fn new(dir: &Path, program: Program, script: &Script) -> Result<Self, String> {
        let paths: Vec<PathBuf> = (0..script.databases.len()).map(|n| dir.join(format!("db{n}"))).collect();
        let config = dir.join("config.yml");
        let text = configuration(dir, &paths, &script.settings, program.is_litestream());
        std::fs::write(&config, text).map_err(|error| error.to_string())?;
        let follower = Follower::new(program, config, dir.join("follower.log"));
        let databases = paths.into_iter().map(|path| Database::new(dir, path));
        let mut stage = Self { dir: dir.to_owned(), databases: databases.collect(), follower };
        for (database, seed) in stage.databases.iter_mut().zip(&script.databases) {
            database.app(dir)?.obey(&format!("create {seed}"))?;
        }
        Ok(stage)
    }

    /// One round, and the proof that the replica has what the source has.
    pub(crate) fn round(&mut self, round: &Round) -> Result<(), Trouble> {
        for action in &round.actions {
            self.act(action).map_err(|reason| Trouble::Stuck(format!("{action:?}: {reason}")))?;
        }
        let how = round.confirm;
        let patience = if how == Confirm::Live { PATIENCE } else { Duration::ZERO };
        self.confirm(how).map_err(|reason| Trouble::Stuck(format!("{how:?}: {reason}")))?;
        for database in &self.databases {
            let arrived = self.arrives(database, patience);
            arrived.map_err(|reason| Trouble::Diverged(format!("{how:?}: {}: {reason}", database.path.display())))?;
        }
        Ok(())
    }

    /// Restores to some of the kept points: each must be a moment between two
    /// commits, and `monotonic` ones come in the order of the commits.
    pub(crate) fn earlier_points(&self, rng: &mut Rng, monotonic: bool) -> Result<(), Trouble> {
        for (number, database) in self.databases.iter().enumerate() {
            let txids = self.txids(number).map_err(Trouble::Stuck)?;
            let mut chosen: Vec<_> = (0..txids.len().min(3)).map(|_| rng.below(txids.len() as u64)).collect();
            chosen.sort_unstable();
            let mut before = 0;
            for at in chosen {
                let txid = &txids[usize::try_from(at).expect("below the length")];
                let target = self.dir.join("point");
                discard(&target);
                let point = self.follower.restore(&database.path, &target, Some(txid));
                let commits = point.and_then(|()| oracle::whole(&target));
                let commits = commits.map_err(|reason| Trouble::Diverged(format!("at {txid}: {reason}")))?;
                if monotonic && commits < before {
                    let reason = format!("at {txid}: {commits} commits, and {before} at an earlier point");
                    return Err(Trouble::Diverged(reason));
                }
                before = commits;
            }
        }
        Ok(())
    }

    /// The points kept at level 0, oldest first.
    fn txids(&self, database: usize) -> Result<Vec<String>, String> {
        let level = self.dir.join(format!("replica{database}/ltx/0"));
        let entries = std::fs::read_dir(&level).map_err(|error| format!("{}: {error}", level.display()))?;
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        let mut txids: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".ltx")?.split_once('-')?.1.to_owned())).collect();
        txids.sort();
        Ok(txids)
    }

    /// How often the follower said each of these.
    pub(crate) fn said<const N: usize>(&self, phrases: [&str; N]) -> [usize; N] {
        let log = std::fs::read_to_string(self.dir.join("follower.log")).unwrap_or_default();
        phrases.map(|phrase| log.matches(phrase).count())
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
        match *action {
            Action::Join(database) => self.databases[database].join(&self.dir).map(drop),
            Action::Leave(database) => self.databases[database].apps.pop().map_or(Ok(()), App::leave),
            Action::LeaveAll(database) => self.databases[database].leave_all(),
            Action::Burst { operations, seed, ref incidents } => self.burst(operations, seed, incidents),
            Action::Start { attached } => self.start(attached),
            Action::Stop => self.stop().map(drop),
            Action::Kill => {
                self.follower.kill();
                Ok(())
            }
            Action::Tail { database, inserts, mode, updates } => {
                let app = self.alone(database)?;
                app.obey(&format!("insert {inserts}"))?;
                app.obey(&format!("checkpoint {mode}"))?;
                (0..updates).try_for_each(|_| app.obey("update"))
            }
            Action::Race { database, rows, after, stop } => self.race(database, rows, after, stop),
            Action::Pass { database, after } => {
                self.follower.start()?;
                std::thread::sleep(after);
                self.databases[database].leave_all()
            }
            Action::Tear(database) => self.databases[database].tear(&self.dir),
            Action::Hold(database) => self.databases[database].app(&self.dir)?.obey("hold"),
            Action::Hang { database, seed } => self.alone(database)?.obey(&format!("hang {seed}")),
            Action::Release(database) => self.databases[database].release(),
            Action::Convert { database, seed } => self.alone(database)?.obey(&format!("convert {seed}")),
            Action::PutBack(database) => self.databases[database].put_back(),
            Action::Revert(database) => self.databases[database].revert(),
            Action::Forget(database) => {
                let _ = std::fs::remove_dir_all(self.dir.join(format!(".db{database}-litestream")));
                Ok(())
            }
        }
    }

    /// An application of this database while no other one holds any lock on it.
    fn alone(&mut self, database: usize) -> Result<&mut App, String> {
        self.databases[database].release()?;
        self.databases[database].app(&self.dir)
    }

    fn burst(&mut self, operations: u64, seed: u64, incidents: &[(Duration, Incident)]) -> Result<(), String> {
        let mut seeds = Rng(seed);
        for database in &mut self.databases {
            database.app(&self.dir)?;
            for app in &mut database.apps {
                app.order(&format!("run {} {operations}", seeds.next()))?;
            }
        }
        for (after, incident) in incidents {
            std::thread::sleep(*after);
            match *incident {
                Incident::Start => self.follower.start()?,
                Incident::Stop => drop(self.stop()?),
                Incident::Kill => self.follower.kill(),
                Incident::KillApp(database) => self.databases[database].kill_one(),
                Incident::Freeze(pause) => {
                    self.follower.stand_still();
                    std::thread::sleep(pause);
                    self.follower.go_on();
                }
                Incident::FreezeApp(database, pause) => self.databases[database].freeze(pause),
            }
        }
        self.databases.iter_mut().flat_map(|database| &mut database.apps).try_for_each(App::answer)
    }

    fn race(&mut self, database: usize, rows: u64, after: Duration, stop: bool) -> Result<(), String> {
        let app = self.alone(database)?;
        app.obey("insert 2")?;
        // The reader keeps the log from restarting, so that the large transaction continues what is captured.
        app.obey("hold")?;
        self.follower.once()?;
        let app = self.databases[database].app(&self.dir)?;
        app.obey(&format!("big {rows}"))?;
        app.obey("release")?;
        app.obey("checkpoint PASSIVE")?;
        self.start(stop)?;
        if stop {
            self.follower.tell_to_stop();
        }
        std::thread::sleep(after);
        let app = self.databases[database].app(&self.dir)?;
        self.follower.stand_still();
        // Enough for two small commits, unless the follower stands there with the write lock.
        let ordered = app.order("update").and_then(|()| app.order("insert 3"));
        std::thread::sleep(Duration::from_millis(8));
        self.follower.go_on();
        ordered.and_then(|()| app.answer()).and_then(|()| app.answer())?;
        if stop { self.stop().map(drop) } else { Ok(()) }
    }

    fn start(&mut self, attached: bool) -> Result<(), String> {
        let since = self.follower.log_length();
        let fresh = !self.follower.is_running();
        self.follower.start()?;
        if attached && fresh { self.follower.attached(self.databases.len(), since) } else { Ok(()) }
    }

    fn stop(&mut self) -> Result<Stopped, String> {
        if self.follower.program().is_litestream() {
            // It needs the write lock to stop.
            self.databases.iter_mut().try_for_each(Database::release)?;
        }
        self.follower.stop()
    }

    /// Gets to a point at which the replica must have everything, and keeps a copy of the source.
    fn confirm(&mut self, how: Confirm) -> Result<(), String> {
        let official = self.follower.program().is_litestream();
        for database in &mut self.databases {
            if database.unpublished {
                database.release()?;
                database.app(&self.dir)?.obey("commit")?;
                database.unpublished = false;
            }
        }
        match how {
            Confirm::Live => self.start(false)?,
            Confirm::Stop if self.follower.is_running() && self.stop()? == Stopped::Well && !official => {}
            Confirm::Stop | Confirm::Once => {
                self.follower.kill();
                if official {
                    self.databases.iter_mut().try_for_each(Database::release)?;
                }
                self.follower.once()?;
            }
        }
        for database in &self.databases {
            oracle::copy(&database.path, &database.image)?;
            oracle::copy(&database.image, &database.earlier)?;
            oracle::recover(&database.earlier)?;
        }
        Ok(())
    }

    /// What is restored is the source, at the latest when patience ends.
    fn arrives(&self, database: &Database, patience: Duration) -> Result<(), String> {
        let target = self.dir.join("restored");
        let same = match self.follower.program() {
            Program::Brooklet(_) => oracle::same_pages,
            Program::Litestream(_) => oracle::same_rows,
        };
        let deadline = Instant::now() + patience;
        loop {
            discard(&target);
            let restored = self.follower.restore(&database.path, &target, None);
            let outcome =
                restored.and_then(|()| same(&database.earlier, &target)).and_then(|()| oracle::whole(&target));
            match outcome.map(drop) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(AGAIN),
                outcome => return outcome,
            }
        }
    }
}

/// Between two looks at a replica that is still catching up.
const AGAIN: Duration = Duration::from_millis(15);

impl Database {
    fn new(dir: &Path, path: PathBuf) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = |suffix| dir.join(format!("{name}.{suffix}"));
        Self { apps: Vec::new(), unpublished: false, earlier: beside("copy"), image: beside("image"), path }
    }

    fn join(&mut self, dir: &Path) -> Result<&mut App, String> {
        let app = App::start(&self.path, &dir.join("app.log"))?;
        self.apps.push(app);
        Ok(self.apps.last_mut().expect("pushed above"))
    }

    /// Any application; a new one if there is none.
    fn app(&mut self, dir: &Path) -> Result<&mut App, String> {
        if self.apps.is_empty() {
            return self.join(dir);
        }
        Ok(self.apps.first_mut().expect("not empty"))
    }

    fn release(&mut self) -> Result<(), String> {
        self.apps.iter_mut().try_for_each(|app| app.obey("release"))
    }

    fn leave_all(&mut self) -> Result<(), String> {
        self.apps.drain(..).try_for_each(App::leave)
    }

    fn freeze(&self, pause: Duration) {
        self.apps.iter().for_each(App::stand_still);
        std::thread::sleep(pause);
        self.apps.iter().for_each(App::go_on);
    }

    fn kill_one(&mut self) {
        if let Some(mut app) = self.apps.pop() {
            app.kill();
            self.unpublished = true;
        }
    }

    /// A writer dies between the two copies of the header of the wal-index. The
    /// commit it was publishing is in the log, or not.
    fn tear(&mut self, dir: &Path) -> Result<(), String> {
        if oracle::with_suffix(&self.path, "-shm").exists() {
            let mut writer = App::start(&self.path, &dir.join("app.log"))?;
            writer.obey("tear")?;
            writer.kill();
            self.unpublished = true;
        }
        Ok(())
    }

    /// Back to what the last round ended with, in the same file.
    fn put_back(&mut self) -> Result<(), String> {
        self.leave_all()?;
        if self.earlier.exists() {
            discard_log(&self.path);
            std::fs::copy(&self.earlier, &self.path).map_err(|error| error.to_string())?;
            self.unpublished = false;
        }
        Ok(())
    }

    fn revert(&mut self) -> Result<(), String> {
        while !self.apps.is_empty() {
            self.kill_one();
        }
        if self.image.exists() {
            discard_log(&self.path);
            oracle::copy(&self.image, &self.path)?;
            self.unpublished = false;
        }
        Ok(())
    }
}

fn discard(path: &Path) {
    let _ = std::fs::remove_file(path);
    discard_log(path);
}

fn discard_log(path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(oracle::with_suffix(path, suffix));
    }
}

fn configuration(dir: &Path, databases: &[PathBuf], settings: &Settings, official: bool) -> String {
    let mut text = "logging:\n  level: debug\ndbs:\n".to_owned();
    for (number, path) in databases.iter().enumerate() {
        text += &format!("  - path: {}\n    monitor-interval: {:?}\n", path.display(), settings.monitor_interval);
        // The official program holds up its applications for seconds with numbers as small as these.
        if !official {
            text += &format!(
                "    checkpoint-interval: {:?}\n    min-checkpoint-page-count: {}\n    truncate-page-n: {}\n    \
                 max-sync-wal-bytes: {}\n",
                settings.checkpoint_interval,
                settings.min_checkpoint_pages,
                settings.truncate_pages,
                settings.max_sync_bytes,
            );
        }
        let replica = dir.join(format!("replica{number}"));
        text += &format!(
            "    replica:\n      url: file://{}\n      sync-interval: {:?}\n",
            replica.display(),
            settings.sync_interval
        );
    }
    text
}
