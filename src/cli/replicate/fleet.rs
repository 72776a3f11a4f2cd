//! The databases that the program takes care of: those of the config, those that
//! were registered while it runs, and how the former change when the config does.
//!
//! Always true: a change is checked wholly before any of it is made. What is
//! refused has changed nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::cli::error::CliError;
use crate::cli::options::ConfigFlags;
use crate::cli::settings::Context;
use crate::cli::{directories, drill, open};
use crate::config::{Backend, Config, Database, Directory, Environment};
use crate::control::Reloaded;
use crate::daemon::{Changed, Daemon, Job, RegistryError, Unconfirmed};
use crate::directory::FileId;
use crate::status::{DatabaseFacts, DatabaseId, Health};

use super::member::Member;

/// All of them, and the daemon that follows them.
pub(super) struct Fleet {
    pub(super) daemon: Arc<Daemon>,
    pub(super) environment: Environment,
    context: Context,
    /// Where the config can be read again, if there is one.
    source: Option<ConfigFlags>,
    ways: Ways,
    known: Mutex<Known>,
    /// Held while the config is applied.
    applying: tokio::sync::Mutex<()>,
}

/// What the command line asks for about every database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// Restores are rehearsed where the config says so.
    pub(super) rehearse: bool,
    /// A missing database is restored first, whatever the config says.
    pub(super) restore_missing: bool,
    /// A replica that cannot be reached keeps its database from being taken up.
    pub(super) strict: bool,
}

struct Known {
    config: Config,
    /// Shared: half of the places in a tree are empty, and whoever plans a change works on a copy.
    members: BTreeMap<PathBuf, Arc<Member>>,
}

/// What is different between what is and what should be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference<'a> {
    added: Vec<&'a Database>,
    removed: Vec<&'a Path>,
    changed: Vec<&'a Database>,
    unchanged: usize,
}

/// Why a database was not registered.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    #[error("invalid replica url: {0}")]
    Url(#[source] Box<CliError>),
    #[error("failed to register database: {0}")]
    Other(#[source] Box<CliError>),
}

impl Fleet {
    pub(super) fn new(
        daemon: Arc<Daemon>,
        context: Context,
        environment: Environment,
        source: Option<ConfigFlags>,
        config: Config,
        ways: Ways,
    ) -> Self {
        let known = Mutex::new(Known { config, members: BTreeMap::new() });
        Self { daemon, environment, context, source, ways, known, applying: tokio::sync::Mutex::default() }
    }

    /// Takes up the databases of the config.
    pub(super) async fn launch(&self) -> Result<(), CliError> {
        let config = self.known().config.clone();
        let databases = &directories::to_replicate(&config, &|_, _| false)?;
        open::one_place_each(databases)?;
        if databases.is_empty() && config.directories().is_empty() {
            tracing::error!("no databases specified in configuration");
        }
        let mut ready = Vec::new();
        for database in databases {
            ready.push((database, self.prepare(database).await?));
        }
        for (database, job) in ready {
            self.take_up(database, job, false, false).map_err(CliError::failed)?;
        }
        for directory in config.directories() {
            let found = databases.iter().filter(|database| directory.holds(&database.path)).count();
            let path = directory.dir.display().to_string();
            let to: Vec<String> = directory.template().replicas.iter().map(|r| r.backend.location()).collect();
            tracing::info!(
                path,
                databases = found,
                watch = directory.watch,
                to = to.join(","),
                "replicating directory to"
            );
        }
        Ok(())
    }

    /// The same for the databases whose files exist, without asking the replicas anything.
    pub(super) fn launch_what_is_here(&self) -> Result<(), CliError> {
        let config = self.known().config.clone();
        let databases = directories::to_replicate(&config, &|_, _| false)?;
        open::one_place_each(&databases)?;
        for database in databases.iter().filter(|database| database.path.exists()) {
            self.take_up(database, open::job(database)?, false, false).map_err(CliError::failed)?;
        }
        Ok(())
    }

    /// The directories whose databases come and go.
    pub(super) fn watched(&self) -> Vec<Arc<Directory>> {
        self.known().config.directories().iter().filter(|directory| directory.watch).cloned().collect()
    }

    /// Whether a file of that name would be a database of a watched directory.
    pub(super) fn is_held(&self, path: &Path) -> bool {
        self.known().config.directories().iter().any(|directory| directory.watch && directory.holds(path))
    }

    /// The databases that stay, whatever a directory shows.
    pub(super) fn with_own_entry(&self) -> HashSet<PathBuf> {
        let known = self.known();
        let configured = known.config.databases().unwrap_or_default().iter().map(|database| database.path.clone());
        configured.chain(known.members.iter().filter(|(_, m)| m.registered).map(|(path, _)| path.clone())).collect()
    }

    /// Whether SQLite may have a file open in this process.
    pub(super) fn has_open(&self, path: &Path, file: FileId) -> bool {
        self.daemon.find(path).is_some() || self.daemon.follows_file(file)
    }

    /// Nobody else changes what there is meanwhile.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.applying.lock().await
    }

    /// The databases that are followed because a directory holds them.
    pub(super) fn found_in(&self, directory: &Directory) -> Vec<PathBuf> {
        let own_entry = self.with_own_entry();
        let known = self.known();
        known.members.keys().filter(|path| directory.holds(path) && !own_entry.contains(*path)).cloned().collect()
    }

    /// Follows databases that have come. Says of which it could not, and why.
    pub(super) async fn take_up_found(&self, directory: &Directory, paths: &[PathBuf]) -> Vec<String> {
        let mut troubles = Vec::new();
        if paths.is_empty() {
            return troubles;
        }
        let all: Vec<Database> = settings(&self.known().members).collect();
        let mut places = open::one_place_each(&all).unwrap_or_default();
        for path in paths {
            let taken_up = async {
                let database = directory.database(path)?;
                places.take(&database)?;
                let job = self.prepare(&database).await?;
                self.take_up(&database, job, false, false).map_err(CliError::failed)
            };
            let taken_up: Result<(), CliError> = taken_up.await;
            match taken_up {
                Ok(()) => tracing::info!(path = path.display().to_string(), "added database to replication"),
                Err(error) => troubles.push(format!("cannot replicate {}: {error}", path.display())),
            }
        }
        troubles
    }

    /// Follows a database that has gone no more.
    pub(super) async fn let_go_of_found(&self, path: &Path) -> Result<Vec<Unconfirmed>, RegistryError> {
        let id = self.daemon.find(path).ok_or(RegistryError::NotThere)?;
        self.let_go(path, id, self.patience()).await
    }

    /// How long the end of a database may take.
    pub(super) fn patience(&self) -> Duration {
        self.known().config.global.shutdown_sync_timeout
    }

    /// The path as requests mean it.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        crate::config::database_path(path, &self.environment)
    }

    /// Follows another database until it is unregistered or the program ends. `false`: it is there already.
    pub(super) async fn register(&self, path: &Path, url: &str) -> Result<bool, RegisterError> {
        if self.daemon.find(path).is_some() {
            return Ok(false);
        }
        let _turn = self.turn().await;
        let other = |error: CliError| RegisterError::Other(Box::new(error));
        crate::config::ReplicaUrl::parse(url).map_err(|error| RegisterError::Url(Box::new(error.into())))?;
        let settings = self.known().config.registered(path, url, &self.environment);
        let settings = settings.map_err(|error| RegisterError::Url(Box::new(error.into())))?;
        let members = self.known().members.clone();
        // What another request has registered meanwhile, or is about to end, is in nobody's place but its own.
        let others = self::settings(&members).filter(|other| other.path != settings.path);
        let all: Vec<Database> = others.chain([settings.clone()]).collect();
        open::one_place_each(&all).map_err(other)?;
        let job = self.prepare(&settings).await.map_err(other)?;
        match self.take_up(&settings, job, true, false) {
            Ok(()) => Ok(true),
            // Another request was faster.
            Err(RegistryError::AlreadyThere { .. }) => Ok(false),
            Err(error) => Err(other(CliError::failed(error))),
        }
    }

    /// Follows a database no more. What was known of it at the end; `None`: it is not there.
    pub(super) async fn unregister(
        &self,
        path: &Path,
        patience: Duration,
    ) -> Result<Option<(DatabaseFacts, Vec<Unconfirmed>)>, RegistryError> {
        let Some(id) = self.daemon.find(path) else { return Ok(None) };
        let ended = async {
            let unconfirmed = match self.daemon.pause(id, patience).await? {
                Changed::Done(unconfirmed) => unconfirmed,
                Changed::Already => Vec::new(),
            };
            let facts = self.daemon.board().read_one(id).unwrap_or_default();
            self.let_go(path, id, patience).await?;
            Ok((facts, unconfirmed))
        };
        match ended.await {
            Err(RegistryError::NotThere) => Ok(None),
            ended => ended.map(Some),
        }
    }

    /// Reads the config again and applies what is different.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub(super) async fn reload(&self) -> Result<Reloaded, CliError> {
        let Some(flags) = &self.source else {
            return Err(CliError::usage("there is no config to reload: the database was given on the command line"));
        };
        let _turn = self.applying.lock().await;
        let config = self.context.config(flags)?;
        if !config.mentions_databases() {
            return Err(CliError::usage(
                "the config says nothing about databases, as if it were only half written: \
                 say \"dbs: []\" to replicate none",
            ));
        }
        let databases = directories::to_replicate(&config, &|path, file| self.has_open(path, file))?;
        let members = self.known().members.clone();
        let configured: HashSet<&Path> = databases.iter().map(|database| database.path.as_path()).collect();
        let registered = members.iter().filter(|(path, m)| m.registered && !configured.contains(path.as_path()));
        let registered = registered.map(|(path, member)| member.settings(path).into_owned());
        let all: Vec<Database> = databases.iter().cloned().chain(registered).collect();
        open::one_place_each(&all)?;
        let difference = difference(&members, &databases);
        for database in difference.added.iter().chain(&difference.changed) {
            open::job(database)?;
        }
        for warning in &config.warnings {
            tracing::warn!("{}", warning.text);
        }
        // From here on it is applied, as far as possible.
        let mut remarks = self.only_at_the_next_start(&config);
        self.known().config = config;
        let mut stopped = Vec::new();
        let ends = difference.removed.iter().copied().chain(difference.changed.iter().map(|d| d.path.as_path()));
        let ends = ends.filter_map(|path| Some((path, members.get(path)?.id)));
        let ends = futures::future::join_all(ends.map(|(path, id)| async move {
            let was_stopped = self.daemon.board().read_one(id).is_some_and(|facts| facts.health == Health::Stopped);
            (path, was_stopped, self.let_go(path, id, self.patience()).await)
        }));
        for (path, was_stopped, outcome) in ends.await {
            match outcome {
                Ok(unconfirmed) => remarks.extend(unconfirmed.iter().map(only_here)),
                Err(RegistryError::NotThere) => {}
                Err(error) => remarks.push(format!("{}: {error}", path.display())),
            }
            if was_stopped {
                stopped.push(path);
            }
        }
        for database in difference.added.iter().chain(&difference.changed) {
            let path = &database.path;
            let taken_up = match self.prepare(database).await {
                Ok(job) => {
                    self.take_up(database, job, false, stopped.contains(&path.as_path())).map_err(CliError::failed)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = taken_up {
                remarks.push(format!("{}: {error}", path.display()));
            }
        }
        let shown = |databases: &[&Database]| databases.iter().map(|d| d.path.display().to_string()).collect();
        let reloaded = Reloaded {
            added: shown(&difference.added),
            removed: difference.removed.iter().map(|path| path.display().to_string()).collect(),
            changed: shown(&difference.changed),
            unchanged: difference.unchanged,
            remarks,
        };
        tracing::info!(
            added = reloaded.added.len(),
            removed = reloaded.removed.len(),
            changed = reloaded.changed.len(),
            unchanged = reloaded.unchanged,
            "config reloaded"
        );
        reloaded.remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
        Ok(reloaded)
    }

    /// Restores a database that is missing, and opens its replicas.
    async fn prepare(&self, database: &Database) -> Result<Job, CliError> {
        if database.restore_if_db_not_exists || self.ways.restore_missing {
            crate::cli::restore::if_missing(database).await?;
        }
        let job = open::job(database)?;
        for (settings, to) in database.replicas.iter().zip(&job.replicas) {
            let strict = self.ways.strict || self.known().config.global.strict_start;
            if strict && !to.create_only {
                to.replica.list_all().await.map_err(|error| {
                    CliError::failed(format!("replica {} of {}: {error}", settings.name, database.path.display()))
                })?;
            }
            if self.known().config.directories().iter().any(|directory| directory.holds(&database.path)) {
                continue; // told once for the whole directory
            }
            tracing::info!(
                db = database.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                name = settings.name,
                r#type = to.replica.kind(),
                "sync-interval" = ?settings.sync_interval,
                path = settings.backend.location(),
                "replicating to"
            );
            if !settings.upkeep.retention_enabled {
                tracing::warn!(name = settings.name, "retention is disabled: nothing is deleted from this replica");
            }
            if matches!(&settings.backend, Backend::S3(s3) if !s3.conditional_writes) {
                tracing::warn!(
                    name = settings.name,
                    "conditional writes are off for this replica: make sure that only one program writes to it"
                );
            }
        }
        Ok(job)
    }

    fn take_up(&self, database: &Database, job: Job, registered: bool, stopped: bool) -> Result<(), RegistryError> {
        // Held until it is known here too: what the daemon has, a reload must not overlook.
        let mut known = self.known();
        let id = if stopped { self.daemon.add_stopped(job.clone())? } else { self.daemon.add(job.clone())? };
        if self.ways.rehearse {
            self.daemon.rehearse(drill::rehearsals(database, id, &job));
        }
        let member = Member::new(id, database, known.config.directories(), registered);
        known.members.insert(database.path.clone(), Arc::new(member));
        Ok(())
    }

    async fn let_go(&self, path: &Path, id: DatabaseId, patience: Duration) -> Result<Vec<Unconfirmed>, RegistryError> {
        let outcome = self.daemon.remove(id, patience).await;
        if matches!(outcome, Ok(_) | Err(RegistryError::NotThere)) {
            let mut known = self.known();
            if known.members.get(path).is_some_and(|member| member.id == id) {
                known.members.remove(path);
            }
        }
        outcome
    }

    /// Settings of the program as a whole that have changed and are not read again.
    fn only_at_the_next_start(&self, new: &Config) -> Vec<String> {
        let known = self.known();
        let (old, new_global) = (&known.config.global, &new.global);
        let changed = [
            ("logging", known.config.logging != new.logging),
            ("socket", old.socket != new_global.socket),
            ("exec", old.exec != new_global.exec),
            ("addr and what belongs to it", old.monitoring != new_global.monitoring),
            ("shutdown-sync-interval", old.shutdown_sync_interval != new_global.shutdown_sync_interval),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| format!("\"{key}\" has changed: that takes effect at the next start")).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }
}

/// What was asked for about each.
fn settings(members: &BTreeMap<PathBuf, Arc<Member>>) -> impl Iterator<Item = Database> {
    members.iter().map(|(path, member)| member.settings(path).into_owned())
}

/// One that was registered and now stands in the config belongs to the config.
fn difference<'a>(members: &'a BTreeMap<PathBuf, Arc<Member>>, wanted: &'a [Database]) -> Difference<'a> {
    let mut found = Difference::default();
    for database in wanted {
        match members.get(&database.path) {
            None => found.added.push(database),
            Some(member) if *member.settings(&database.path) == *database && !member.registered => found.unchanged += 1,
            Some(_) => found.changed.push(database),
        }
    }
    let paths: HashSet<&Path> = wanted.iter().map(|database| database.path.as_path()).collect();
    for (path, member) in members {
        match paths.contains(path.as_path()) {
            true => {}
            false if member.registered => found.unchanged += 1,
            false => found.removed.push(path),
        }
    }
    found
}

/// What is only on this machine, as a sentence.
pub(super) fn only_here(lost: &Unconfirmed) -> String {
    let replica = lost.replica.as_ref().map_or_else(String::new, |name| format!(" and not on replica {name}"));
    format!("the newest commits of {} are only on this machine{replica}: {}", lost.path.display(), lost.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let environment = Environment { working_dir: "/".into(), ..Environment::default() };
        Config::parse(text, &environment).unwrap()
    }

    #[test]
    fn a_reload_touches_only_what_is_different() {
        let old = config(
            "dbs:\n  - {path: /a, replica: {path: /ra}}\n  - {path: /b, replica: {path: /rb}}\n  - {path: /c, replica: {path: /rc}}",
        );
        let new = config(
            "dbs:\n  - {path: /d, replica: {path: /rd}}\n  - {path: /b, replica: {path: /elsewhere}}\n  - {path: /a, replica: {path: /ra}}",
        );
        let member = |(number, settings): (u64, &Database), registered| {
            let member = Member::new(DatabaseId::new(number), settings, &[], registered);
            (settings.path.clone(), Arc::new(member))
        };
        let mut members: BTreeMap<PathBuf, Arc<Member>> =
            (0..).zip(old.databases().unwrap()).map(|one| member(one, false)).collect();
        let registered = config("dbs: [{path: /e, replica: {path: /re}}]");
        members.extend([member((9, &registered.databases().unwrap()[0]), true)]);
        let found = difference(&members, new.databases().unwrap());
        let paths = |databases: &[&Database]| databases.iter().map(|d| d.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&found.added), [PathBuf::from("/d")]);
        assert_eq!(paths(&found.changed), [PathBuf::from("/b")]);
        assert_eq!((found.removed, found.unchanged), (vec![Path::new("/c")], 2));
    }

    #[test]
    fn settings_of_the_whole_program_count_for_every_database() {
        let slow = config("sync-interval: 5s\ndbs: [{path: /a, replica: {path: /ra}}]");
        let fast = config("dbs: [{path: /a, replica: {path: /ra}}]");
        let member = Member::new(DatabaseId::new(0), &slow.databases().unwrap()[0], &[], false);
        let members = BTreeMap::from([(PathBuf::from("/a"), Arc::new(member))]);
        assert_eq!(difference(&members, fast.databases().unwrap()).changed.len(), 1);
        assert_eq!(difference(&members, slow.databases().unwrap()).unchanged, 1);
    }
}
