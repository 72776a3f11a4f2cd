//! What has come and gone between two looks. Pure.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::scan::{FileId, Found};

/// The difference between what is followed and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be followed from now on.
    pub added: Vec<PathBuf>,
    /// Not there any more.
    pub removed: Vec<PathBuf>,
}

/// Compares what is followed with what was found, by path: the place on a
/// replica follows the path. A file that was replaced under its name is for
/// capture to notice. One that was renamed goes under one name and comes under the
/// other. Of a file with several names the one that is followed stays, as long as
/// it is one of them.
pub fn changes(followed: &BTreeMap<PathBuf, FileId>, found: &[Found], aliases: &[(PathBuf, PathBuf)]) -> Changes {
    let mut here: HashSet<&Path> = found.iter().map(|f| f.path.as_path()).collect();
    for (alias, first) in aliases {
        if followed.contains_key(alias) && !followed.contains_key(first) {
            here.remove(first.as_path());
            here.insert(alias);
        }
    }
    let mut added: Vec<PathBuf> =
        here.iter().filter(|path| !followed.contains_key(**path)).map(|path| path.to_path_buf()).collect();
    added.sort_unstable();
    Changes { added, removed: followed.keys().filter(|path| !here.contains(path.as_path())).cloned().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, inode: u64) -> Found {
        Found { path: path.into(), file: (1, inode) }
    }

    #[test]
    fn what_comes_and_goes_is_told() {
        let followed = BTreeMap::from([("/a".into(), (1, 1)), ("/b".into(), (1, 2))]);
        let now = [found("/b", 9), found("/c", 3)];
        let expected = Changes { added: vec!["/c".into()], removed: vec!["/a".into()] };
        assert_eq!(changes(&followed, &now, &[]), expected);
        assert_eq!(changes(&followed, &[found("/a", 1), found("/b", 2)], &[]), Changes::default());
    }

    #[test]
    fn a_rename_ends_one_history_and_begins_another() {
        let followed = BTreeMap::from([("/a".into(), (1, 1))]);
        let expected = Changes { added: vec!["/b".into()], removed: vec!["/a".into()] };
        assert_eq!(changes(&followed, &[found("/b", 1)], &[]), expected);
    }

    #[test]
    fn a_second_name_changes_nothing() {
        let followed = BTreeMap::from([("/b".into(), (1, 1))]);
        let aliases = [("/b".into(), "/a".into())];
        assert_eq!(changes(&followed, &[found("/a", 1)], &aliases), Changes::default());
    }
}
