//! Settings: what the config file, the command line and the environment ask for,
//! as typed values with every default filled in. The file is Litestream's, of
//! either generation; see `docs/config.md`.
//!
//! A [`Config`] that exists is well-formed: every value has its type and is in
//! its range. Two things are asked for separately, because not every command
//! should fail for them: whether each database is in order
//! ([`Config::databases`]; restoring one must not fail because of another), and
//! whether this build can do all that is asked ([`Config::runnable`]). Nothing
//! is dropped silently: what has no effect is in [`Config::warnings`].

mod check;
mod database;
mod directory;
mod drill;
pub mod duration;
mod env;
mod error;
mod global;
mod keys;
mod monitoring;
mod paths;
mod pattern;
mod replica;
mod s3;
mod scalar;
mod section;
mod size;
mod spelling;
mod upkeep;
mod url;
mod yaml;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use check::{Warning, WarningKind};
pub use database::{Database, Truncate, database_path};
pub use directory::Directory;
pub use drill::Drill;
pub use env::Environment;
pub use error::Error;
pub use global::{DEFAULT_SOCKET, Global, LogFormat, LogLevel, Logging, Socket};
pub use monitoring::{Address, Heartbeat, Monitoring, PerDatabase, Token, Webhook};
pub use paths::{absolute, config_path};
pub use replica::{Age, Backend, BackendKind, LtxEncoding, ReplicaSettings, Snapshots};
pub use s3::S3Settings;
pub use upkeep::{Keep, Upkeep};
pub use url::{ReplicaUrl, shown as shown_url};

use section::Section;

/// Everything there is to know about what should be done.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file's text, for databases that are registered later.
    tree: Option<Tree>,
    dbs: Vec<Database>,
    /// Databases whose settings make no sense.
    broken: Vec<Broken>,
    /// Entries for directories of databases.
    directories: Vec<Arc<Directory>>,
    /// Settings of the program as a whole.
    pub global: Global,
    /// How to log.
    pub logging: Logging,
    /// What in the file will not do what its author expects.
    pub warnings: Vec<Warning>,
}

#[derive(Clone)]
struct Tree(yaml::Node);

/// Without its texts: many are secrets.
impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tree")
    }
}

#[derive(Clone, Debug)]
struct Broken {
    path: Option<PathBuf>,
    reason: String,
}

impl Config {
    /// Reads the config file that the flag, the environment or the default names.
    pub fn load(flag: Option<&Path>, expand_env: bool, environment: &Environment) -> Result<Self, Error> {
        let path = config_path(flag, environment);
        let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { path },
            _ => Error::Read { path, source },
        })?;
        let text = if expand_env { environment.expand(&text) } else { text };
        Self::parse(&text, environment)
    }

    /// Reads the text of a config file.
    pub fn parse(text: &str, environment: &Environment) -> Result<Self, Error> {
        let tree = yaml::read(text).map_err(|reason| Error::Syntax { reason })?;
        let found = check::check(&tree);
        if !found.problems.is_empty() {
            return Err(Error::Types { problems: found.problems });
        }
        let root = Section::new(&tree);
        let mut config = Self { tree: Some(Tree(tree.clone())), warnings: found.warnings, ..Self::default() };
        config.global = global::global(root, environment)?;
        config.logging = global::logging(root.section("logging"), &mut config.warnings)?;
        for (index, section) in root.sections("dbs").unwrap_or_default().into_iter().enumerate() {
            let entry = database::Entry { number: index + 1, section, global: root, environment };
            entry.check_early()?;
            if section.text("dir").is_some() {
                match directory::build(&entry, &mut config.warnings) {
                    Ok(directory) => config.directories.push(Arc::new(directory)),
                    Err(error) => config.broken.push(Broken { path: None, reason: error.to_string() }),
                }
                continue;
            }
            match database::build(&entry, &mut config.warnings) {
                Ok(database) => config.dbs.push(database),
                Err(error) => {
                    let path = section.text("path").map(|path| database_path(path, environment));
                    config.broken.push(Broken { path, reason: error.to_string() });
                }
            }
        }
        config.warnings.sort_by_key(|warning| warning.line);
        config.no_path_twice()?;
        Ok(config)
    }

    /// The settings of one database given on the command line; no file is read.
    pub fn direct(database: &Path, urls: &[String], environment: &Environment) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let settings = urls.iter().map(|url| ReplicaSettings::from_url(url, environment, &mut warnings));
        let settings = settings.collect::<Result<Vec<_>, _>>()?;
        let replicas = replica::with_names(settings.into_iter().map(|replica| (None, replica)).collect())?;
        let database = Database::with_defaults(database_path(&database.to_string_lossy(), environment));
        Ok(Self { dbs: vec![Database { replicas, ..database }], warnings, ..Self::default() })
    }

    /// Whether the file says anything about databases, be it that there are none. One that does not, perhaps because
    /// it is empty, may be only half written.
    pub fn mentions_databases(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| Section::new(&tree.0).has("dbs"))
    }

    /// The settings that a database would have if it stood in this config with a replica at that URL.
    pub fn registered(&self, database: &Path, url: &str, environment: &Environment) -> Result<Database, Error> {
        let text = |text: &str| yaml::Value::Scalar { text: text.to_owned(), plain: false };
        let map = |key: &str, value: yaml::Value| {
            let node = yaml::Node { line: 0, value };
            yaml::Entry { key: key.to_owned(), line: 0, merged: false, node }
        };
        let replica = yaml::Value::Map(vec![map("url", text(url))]);
        let path = map("path", text(&database.to_string_lossy()));
        let node = yaml::Node { line: 0, value: yaml::Value::Map(vec![path, map("replica", replica)]) };
        let global = self.tree.as_ref().map_or(Section::none(), |tree| Section::new(&tree.0));
        let entry = database::Entry { number: self.dbs.len() + 1, section: Section::new(&node), global, environment };
        entry.check_early()?;
        let database = database::build(&entry, &mut Vec::new())?;
        for replica in &database.replicas {
            replica.writable()?;
        }
        Ok(database)
    }

    /// Every database with an entry of its own, or what is wrong with the first entry that is not in order.
    pub fn databases(&self) -> Result<&[Database], Error> {
        match self.broken.first() {
            Some(broken) => Err(Error::invalid(&broken.reason)),
            None => Ok(&self.dbs),
        }
    }

    /// Every database with an entry of its own, if each entry is in order and this build can do all that is asked.
    pub fn runnable(&self) -> Result<&[Database], Error> {
        let databases = self.databases()?;
        let templates = self.directories.iter().map(|directory| directory.template());
        for replica in databases.iter().chain(templates).flat_map(|database| &database.replicas) {
            replica.writable()?;
        }
        Ok(databases)
    }

    /// The database with that path, if it is configured, by itself or as one that
    /// a directory would hold, and in order.
    pub fn database(&self, path: &Path, environment: &Environment) -> Result<Database, Error> {
        let path = absolute(path, environment);
        if let Some(database) = self.dbs.iter().find(|database| database.path == path) {
            return Ok(database.clone());
        }
        if let Some(directory) = self.directories.iter().find(|directory| directory.holds(&path)) {
            return directory.database(&path);
        }
        match self.broken.iter().find(|broken| broken.path.as_ref() == Some(&path)) {
            Some(broken) => Err(Error::invalid(&broken.reason)),
            None => Err(Error::UnknownDatabase { path }),
        }
    }

    /// The directories whose databases are to be found at run time.
    pub fn directories(&self) -> &[Arc<Directory>] {
        &self.directories
    }

    /// Two captures of one database would fight over it.
    fn no_path_twice(&self) -> Result<(), Error> {
        for (at, database) in self.dbs.iter().enumerate() {
            if self.dbs[..at].iter().any(|earlier| earlier.path == database.path) {
                let path = database.path.display();
                return Err(Error::invalid(format!("database configured twice: {path}: give each path one entry")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
