//! One look at a whole directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode.
pub type FileId = (u64, u64);

/// A database that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path, beginning with that of the directory.
    pub path: PathBuf,
    /// The file itself, whatever it is called.
    pub file: FileId,
}

/// What a look at a directory has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The databases, by path.
    pub databases: Vec<Found>,
    /// Further names of files that are there already: the other name, and the name that counts.
    pub aliases: Vec<(PathBuf, PathBuf)>,
    /// Files with the right name that no database has been written to yet.
    pub candidates: usize,
}

/// Every SQLite database file begins so: <https://www.sqlite.org/fileformat.html#magic_header_string>.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a scan asks about paths.
pub struct Wanted<'a> {
    /// Whether a directory inside is looked into.
    pub enter: &'a dyn Fn(&Path) -> bool,
    /// Whether a file of that name is meant.
    pub file: &'a dyn Fn(&Path) -> bool,
    /// Called with each directory before it is read, so that nothing that comes later is missed.
    pub entering: &'a mut dyn FnMut(&Path),
    /// Files that are databases, and must not be opened: SQLite has them open.
    pub known: &'a dyn Fn(&Path, FileId) -> bool,
}

/// Looks for databases in a directory. Directories behind symbolic links are not
/// entered; a directory or file that goes meanwhile is not there.
///
/// # Errors
/// When something in it cannot be read: then what is there is not known.
pub fn scan(dir: &Path, mut wanted: Wanted<'_>) -> io::Result<Scan> {
    let mut found = BTreeMap::new();
    let mut result = Scan::default();
    if !fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    walk(dir, &mut wanted, &mut found, &mut result.candidates)?;
    let mut names: BTreeMap<FileId, PathBuf> = BTreeMap::new();
    for (path, file) in found {
        match names.get(&file) {
            Some(first) => result.aliases.push((path, first.clone())),
            None => {
                names.insert(file, path.clone());
                result.databases.push(Found { path, file });
            }
        }
    }
    Ok(result)
}

fn walk(
    dir: &Path,
    wanted: &mut Wanted<'_>,
    found: &mut BTreeMap<PathBuf, FileId>,
    candidates: &mut usize,
) -> io::Result<()> {
    (wanted.entering)(dir);
    let Some(entries) = present(fs::read_dir(dir))? else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let Some(kind) = present(entry.file_type())? else { continue };
        if kind.is_dir() {
            if (wanted.enter)(&path) {
                walk(&path, wanted, found, candidates)?;
            }
            continue;
        }
        if !(wanted.file)(&path) {
            continue;
        }
        // Through a symbolic link, as SQLite will go.
        let Some(meta) = present(fs::metadata(&path))?.filter(fs::Metadata::is_file) else { continue };
        let file = (meta.dev(), meta.ino());
        if (wanted.known)(&path, file) || is_database(&path)? {
            found.insert(path, file);
        } else {
            *candidates += 1;
        }
    }
    Ok(())
}

/// Whether a file, which nobody in this process has open, begins as databases do.
fn is_database(path: &Path) -> io::Result<bool> {
    let Some(mut file) = present(File::open(path))? else { return Ok(false) };
    let mut head = [0u8; MAGIC.len()];
    match file.read_exact(&mut head) {
        Ok(()) => Ok(head == *MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// `None` for what has gone meanwhile.
fn present<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(dir: &Path, name: &str, database: bool) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, if database { &b"SQLite format 3\0and pages"[..] } else { &b"SQLite"[..] }).unwrap();
        path
    }

    fn look(dir: &Path, known: &dyn Fn(&Path, FileId) -> bool) -> io::Result<Scan> {
        let file = |path: &Path| path.extension().is_some_and(|e| e == "db");
        let enter = |path: &Path| !path.ends_with("state");
        scan(dir, Wanted { enter: &enter, file: &file, entering: &mut |_| {}, known })
    }

    fn names(scan: &Scan, dir: &Path) -> Vec<String> {
        let name = |f: &Found| f.path.strip_prefix(dir).unwrap().display().to_string();
        scan.databases.iter().map(name).collect()
    }

    #[test]
    fn databases_are_told_from_other_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, database) in
            [("b.db", true), ("eu/a.db", true), ("c.txt", true), ("d.db", false), ("state/x.db", true)]
        {
            put(dir.path(), name, database);
        }
        let found = look(dir.path(), &|_, _| false).unwrap();
        assert_eq!(names(&found, dir.path()), ["b.db", "eu/a.db"]);
        assert_eq!(found.candidates, 1, "d.db may become one");
    }

    /// F117, F53: two followers of one file would break each other's locks.
    #[test]
    fn of_several_names_of_one_file_the_first_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = put(dir.path(), "b.db", true);
        fs::hard_link(&file, dir.path().join("c.db")).unwrap();
        symlink(&file, dir.path().join("a.db")).unwrap();
        symlink(dir.path(), dir.path().join("round")).unwrap();
        let found = look(dir.path(), &|_, _| false).unwrap();
        assert_eq!(names(&found, dir.path()), ["a.db"]);
        assert_eq!(found.aliases.len(), 2);
    }

    #[test]
    fn a_file_that_is_followed_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = put(dir.path(), "a.db", false);
        let meta = fs::metadata(&path).unwrap();
        let known = |_: &Path, file: FileId| file == (meta.dev(), meta.ino());
        assert_eq!(names(&look(dir.path(), &known).unwrap(), dir.path()), ["a.db"], "not even to see that it is none");
    }

    /// F105: databases in a folder that cannot be read are not gone.
    #[test]
    fn a_folder_that_cannot_be_read_makes_the_whole_look_fail() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "a.db", true);
        let closed = put(dir.path(), "closed/b.db", true).parent().unwrap().to_owned();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let looked = look(dir.path(), &|_, _| false);
        let readable = fs::read_dir(&closed).is_ok();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(looked.is_err() || readable, "unless this user may read everything");
        assert!(look(&dir.path().join("missing"), &|_, _| false).is_err());
    }
}
