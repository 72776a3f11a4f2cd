//! An entry of `dbs` for a whole directory: which files it means, and the
//! settings of each. Pure: nobody has looked into the directory yet.
//!
//! Always true: two files of one directory have different places on every
//! replica, and different local state.

use std::path::{Component, Path, PathBuf};

use super::check::Warning;
use super::database::{self, Database, Entry};
use super::error::Error;
use super::paths::absolute;
use super::pattern::Pattern;
use super::replica::Backend;

/// A directory of databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The directory, absolute.
    pub dir: PathBuf,
    /// The databases in directories inside as well.
    pub recursive: bool,
    /// Those that appear later as well, until they go.
    pub watch: bool,
    pattern: Pattern,
    pattern_text: String,
    state: LocalState,
    /// What each database is given, but for its own place.
    template: Database,
}

/// Where the local state of its databases is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LocalState {
    /// Beside each, as `.<file>-litestream`.
    Beside,
    /// `meta-path`: the same names in a tree of their own.
    HiddenIn(PathBuf),
    /// `meta-dir`: `<path>-litestream`.
    In(PathBuf),
}

/// What SQLite and its sidecars put beside a database.
const SIDECARS: [&str; 5] = ["-wal", "-shm", "-journal", "-litestream", ".tmp"];

/// Local state of a database, ours or Litestream's: nothing in it is one.
const STATE_SUFFIX: &str = "-litestream";

impl Directory {
    /// Whether a file of that name would be one of its databases. Says nothing
    /// about what is there.
    pub fn holds(&self, path: &Path) -> bool {
        let (Ok(relative), Some(name)) =
            (path.strip_prefix(&self.dir), path.file_name().and_then(|name| name.to_str()))
        else {
            return false;
        };
        let inside = relative.parent().unwrap_or(Path::new(""));
        let deep = inside.components().next().is_some();
        let plain = *path != *self.dir && relative.components().all(|part| matches!(part, Component::Normal(_)));
        plain
            && (self.recursive || !deep)
            && inside.iter().all(|dir| !Self::is_state(Path::new(dir)))
            && !SIDECARS.iter().any(|suffix| name.ends_with(suffix))
            && self.pattern.matches(name)
    }

    /// Whether a directory inside is somebody's local state, where nobody should look for databases.
    pub fn is_state(dir: &Path) -> bool {
        dir.file_name().is_some_and(|name| name.to_string_lossy().ends_with(STATE_SUFFIX))
    }

    /// The pattern as it was given.
    pub fn pattern(&self) -> &str {
        &self.pattern_text
    }

    /// What its replicas are called, of which type, and where all of them are together.
    pub fn template(&self) -> &Database {
        &self.template
    }

    /// The settings of one database in it.
    ///
    /// # Errors
    /// When its name cannot be part of a place on a replica.
    pub fn database(&self, path: &Path) -> Result<Database, Error> {
        let nameless = || Error::invalid(format!("{}: its name is not UTF-8: rename it", path.display()));
        let relative = path.strip_prefix(&self.dir).ok().and_then(Path::to_str).ok_or_else(nameless)?;
        let mut database = Database { path: path.to_owned(), ..self.template.clone() };
        for replica in &mut database.replicas {
            replica.backend = within(&replica.backend, relative)?;
        }
        database.meta_path = match &self.state {
            LocalState::Beside => None,
            LocalState::In(base) => Some(base.join(format!("{relative}{STATE_SUFFIX}"))),
            LocalState::HiddenIn(base) => {
                let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(nameless)?;
                Some(base.join(relative).with_file_name(format!(".{name}{STATE_SUFFIX}")))
            }
        };
        Ok(database)
    }
}

/// The place of one database below the place of all.
fn within(all: &Backend, relative: &str) -> Result<Backend, Error> {
    Ok(match all {
        Backend::File { directories } => {
            Backend::File { directories: directories.iter().map(|dir| dir.join(relative)).collect() }
        }
        Backend::S3(settings) => Backend::S3(Box::new(settings.within(relative)?)),
        Backend::NotBuilt { .. } => all.clone(),
    })
}

/// Reads the entry.
pub(crate) fn build(entry: &Entry<'_>, warnings: &mut Vec<Warning>) -> Result<Directory, Error> {
    let section = entry.section;
    let path = |key: &str| section.text(key).map(|path| absolute(Path::new(path), entry.environment));
    let dir = path("dir").unwrap_or_default();
    let text = section.text("pattern").unwrap_or_default();
    let pattern = Pattern::parse(text).ok_or_else(|| {
        Error::field(&format!("dbs[{}].pattern", dir.display()), "syntax error in pattern", &format!("{text:?}"))
    })?;
    let state = match (path("meta-dir"), path("meta-path")) {
        (Some(base), _) => LocalState::In(base),
        (None, Some(base)) => LocalState::HiddenIn(base),
        (None, None) => LocalState::Beside,
    };
    Ok(Directory {
        recursive: section.bool("recursive").unwrap_or(false),
        watch: section.bool("watch").unwrap_or(false),
        pattern,
        pattern_text: text.to_owned(),
        state,
        template: Database {
            path: dir.clone(),
            meta_path: None,
            // A database that is missing is one that was removed.
            restore_if_db_not_exists: false,
            ..database::build(entry, warnings)?
        },
        dir,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment};
    use super::*;

    fn directory(entry: &str) -> Directory {
        let environment = Environment { working_dir: "/srv".into(), ..Environment::default() };
        let config = Config::parse(&format!("dbs: [{{{entry}}}]"), &environment).unwrap();
        config.runnable().unwrap();
        Directory::clone(&config.directories()[0])
    }

    #[test]
    fn each_database_has_its_own_place_everywhere() {
        let given = directory("dir: /data, pattern: '*.db', recursive: true, replica: {path: /backup}");
        let one = given.database(Path::new("/data/eu/a.db")).unwrap();
        assert_eq!(one.path, Path::new("/data/eu/a.db"));
        assert_eq!(one.meta_path, None);
        assert_eq!(one.replicas[0].backend, Backend::File { directories: vec!["/backup/eu/a.db".into()] });
        for (keys, expected) in [
            ("url: s3://bucket/all", "s3://bucket/all/eu/a.db"),
            ("url: s3://bucket", "s3://bucket/eu/a.db"),
            ("url: 's3://bucket/all/?region=eu-1'", "s3://bucket/all/eu/a.db"),
            ("type: s3, bucket: bucket, path: all/", "s3://bucket/all/eu/a.db"),
            ("type: s3, bucket: bucket", "s3://bucket/eu/a.db"),
        ] {
            let given = directory(&format!("dir: /data, pattern: '*', replica: {{{keys}}}"));
            let one = given.database(Path::new("/data/eu/a.db")).unwrap();
            assert_eq!(one.replicas[0].backend.location(), expected, "{keys}");
        }
    }

    #[test]
    fn local_state_lies_where_litestream_puts_it() {
        for (keys, expected) in
            [("meta-dir: /state", "/state/eu/a.db-litestream"), ("meta-path: /state", "/state/eu/.a.db-litestream")]
        {
            let given = directory(&format!("dir: /data, pattern: '*', {keys}, replica: {{path: /b}}"));
            let one = given.database(Path::new("/data/eu/a.db")).unwrap();
            assert_eq!(one.meta_path, Some(expected.into()));
        }
    }

    #[test]
    fn only_names_that_can_be_databases_are_meant() {
        let flat = directory("dir: /data, pattern: '*', replica: {path: /b}");
        let deep = directory("dir: /data, pattern: '*.db', recursive: true, replica: {path: /b}");
        for (path, in_flat, in_deep) in [
            ("/data/a.db", true, true),
            ("/data/a.sqlite", true, false),
            ("/data/eu/a.db", false, true),
            ("/data/a.db-wal", false, false),
            ("/data/a.db-shm", false, false),
            ("/data/a.db-journal", false, false),
            ("/data/a.db.0123456789abcdef.tmp", false, false),
            ("/data/.a.db-litestream/x.db", false, false),
            ("/data/.a.db-litestream", false, false),
            ("/data", false, false),
            ("/other/a.db", false, false),
        ] {
            let path = Path::new(path);
            assert_eq!((flat.holds(path), deep.holds(path)), (in_flat, in_deep), "{}", path.display());
        }
    }

    #[test]
    fn a_wrong_pattern_is_refused() {
        let environment = Environment { working_dir: "/srv".into(), ..Environment::default() };
        let config = Config::parse("dbs: [{dir: /d, pattern: '[', replica: {path: r}}]", &environment).unwrap();
        let message = config.runnable().unwrap_err().to_string();
        assert!(message.contains("dbs[/d].pattern: syntax error in pattern (got \"[\")"), "{message}");
    }
}
