//! One of the databases that the program takes care of, with what was asked for
//! about it.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Database, Directory};
use crate::status::DatabaseId;

/// The database; whoever keeps it knows its path.
pub(super) struct Member {
    pub(super) id: DatabaseId,
    settings: Settings,
    /// Not from the config.
    pub(super) registered: bool,
}

enum Settings {
    /// Those of its own.
    Own(Box<Database>),
    /// What a directory gives to each of its databases, of which there may be many thousands.
    Of(Arc<Directory>),
}

impl Member {
    /// `directories`: those of the config, which may hold it.
    pub(super) fn new(id: DatabaseId, settings: &Database, directories: &[Arc<Directory>], registered: bool) -> Self {
        let path = &settings.path;
        let gives_it = |directory: &&Arc<Directory>| {
            directory.holds(path) && directory.database(path).is_ok_and(|given| given == *settings)
        };
        let settings = match directories.iter().find(gives_it) {
            Some(directory) => Settings::Of(directory.clone()),
            None => Settings::Own(Box::new(settings.clone())),
        };
        Self { id, settings, registered }
    }

    /// What was asked for. `path`: where it is.
    pub(super) fn settings(&self, path: &Path) -> Cow<'_, Database> {
        match &self.settings {
            Settings::Own(settings) => Cow::Borrowed(settings),
            Settings::Of(directory) => {
                Cow::Owned(directory.database(path).expect("the directory gave the same when it was taken up"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn what_a_directory_gives_is_given_again() {
        let environment = Environment { working_dir: "/".into(), ..Environment::default() };
        let text = "dbs: [{dir: /d, pattern: '*.db', recursive: true, meta-dir: /m, replica: {path: /r}}]";
        let config = Config::parse(text, &environment).unwrap();
        let path = Path::new("/d/in/one.db");
        let given = config.directories()[0].database(path).unwrap();
        let other = Database { restore_if_db_not_exists: true, ..given.clone() };
        for settings in [given, other] {
            let member = Member::new(DatabaseId::new(1), &settings, config.directories(), false);
            assert_eq!(*member.settings(path), settings);
            assert_eq!(matches!(member.settings, Settings::Of(_)), !settings.restore_if_db_not_exists);
        }
    }
}
