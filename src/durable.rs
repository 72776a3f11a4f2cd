//! The one way a file appears whole: written beside its name, fsynced, renamed,
//! directory fsynced.
//!
//! Always true: a name this module publishes shows the old content, or nothing,
//! until the new content is whole; once `publish` or `publish_new` returned, the
//! new content survives power loss. `publish_new` never replaces what is there.
//! Spool, state, the file storage and restore rely on this.
//!
//! A crash can leave one `<name>.<16 hex digits>.tmp` per write that was under
//! way. `remove_stale` deletes those whose writer is gone: a writer holds a lock
//! on its draft, and the system lets go of it when the process ends.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

/// The mode of a file that only its owner may read.
pub const PRIVATE_FILE: u32 = 0o600;

/// The mode of a directory that only its owner may enter.
pub const PRIVATE_DIR: u32 = 0o700;

/// How every unfinished file ends, ours and Litestream's.
pub const TEMP_SUFFIX: &str = ".tmp";

/// A file operation that went wrong: which one, on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    /// What was tried: "create", "fsync".
    pub action: &'static str,
    /// The file or directory it was tried on.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl Error {
    fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }

    /// The kind of the operating system's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

/// What the operations of this room return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Writes `bytes` as the whole content of `target`, in place of what is there.
pub fn replace(target: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut draft = Draft::create(target, mode)?;
    draft.append(bytes)?;
    draft.publish()
}

/// Writes `bytes` as the whole content of `target`, which must not exist yet:
/// `AlreadyExists` otherwise, and what is there stays as it is.
pub fn write_new(target: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut draft = Draft::create(target, mode)?;
    draft.append(bytes)?;
    draft.publish_new()
}

/// A file being written beside the name it will get. Dropping it without
/// publishing removes it.
#[derive(Debug)]
pub struct Draft {
    file: File,
    temp: PathBuf,
    target: PathBuf,
    /// The temporary name is gone, because the content is at `target`, or is to
    /// stay.
    named: bool,
}

impl Draft {
    /// Starts a file that will be called `target`, with exactly this mode. The
    /// directory must exist.
    pub fn create(target: &Path, mode: u32) -> Result<Self> {
        loop {
            let temp = temp_name(target);
            point("durable::before-create").map_err(Error::of("create", &temp))?;
            // Private until the mode is set, whatever the umask says.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(PRIVATE_FILE)
                .open(&temp)
                .map_err(Error::of("create", &temp))?;
            if !claim(&file) {
                continue; // `remove_stale` met this name before we could lock it
            }
            let draft = Self { file, temp, target: target.to_path_buf(), named: false };
            if mode != PRIVATE_FILE {
                let permissions = Permissions::from_mode(mode);
                draft.file.set_permissions(permissions).map_err(Error::of("set the mode of", &draft.temp))?;
            }
            return Ok(draft);
        }
    }

    /// Takes up the draft of `target` with this tag, which a crash or
    /// [`leave`](Self::leave) has left, or starts it, private to its owner. `None`
    /// if somebody is writing it.
    pub fn take_up(target: &Path, tag: u64) -> Result<Option<Self>> {
        let temp = temp_name_of(target, tag);
        point("durable::before-create").map_err(Error::of("create", &temp))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
        let file = options.open(&temp).map_err(Error::of("create", &temp))?;
        let free = claim(&file);
        Ok(free.then(|| Self { file, temp, target: target.to_path_buf(), named: false }))
    }

    /// Lets the draft be, for somebody to take it up.
    pub fn leave(mut self) {
        self.named = true;
    }

    /// The open file: for writing at an offset, and for times and owner.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the content is until it is published.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(Error::of("write", &self.temp))
    }

    /// Puts the file at its name, in place of what is there. After an error the
    /// name shows the old content or the new, whole in both cases.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        point("durable::before-rename").map_err(Error::of("rename", &self.temp))?;
        fs::rename(&self.temp, &self.target).map_err(Error::of("rename a finished file to", &self.target))?;
        self.named = true;
        point("durable::after-rename").map_err(Error::of("rename a finished file to", &self.target))?;
        sync_dir(parent(&self.target))
    }

    /// Puts the file at its name if the name is free, else `AlreadyExists`. Two
    /// writers racing for one name: exactly one succeeds.
    pub fn publish_new(mut self) -> Result<()> {
        self.sync()?;
        point("durable::before-rename").map_err(Error::of("rename", &self.temp))?;
        place_new(&self.temp, &self.target).map_err(Error::of("give a finished file the name", &self.target))?;
        self.named = true;
        point("durable::after-rename").map_err(Error::of("give a finished file the name", &self.target))?;
        sync_dir(parent(&self.target))
    }

    fn sync(&self) -> Result<()> {
        point("durable::before-fsync").and_then(|()| self.file.sync_all()).map_err(Error::of("fsync", &self.temp))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        point("durable::before-write")?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed now is removed as stale later.
            let _ = fs::remove_file(&self.temp);
        }
    }
}

/// Makes the names in a directory survive power loss.
pub fn sync_dir(dir: &Path) -> Result<()> {
    let synced = point("durable::before-fsync-dir").and_then(|()| File::open(dir)?.sync_all());
    match synced.as_ref().err().and_then(Errno::from_io_error) {
        // Some network and user-space file systems have no such operation, and
        // nothing to offer in its place.
        Some(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        _ => synced.map_err(Error::of("fsync directory", dir)),
    }
}

/// Creates a directory and its missing parents so that they survive power loss.
/// The mode applies to what is created, less the umask.
pub fn create_dir_all(dir: &Path, mode: u32) -> Result<()> {
    let mut missing = Vec::new();
    let mut existing = dir;
    while !existing.as_os_str().is_empty() && !existing.is_dir() {
        missing.push(existing);
        let Some(up) = existing.parent() else { break };
        existing = up;
    }
    // The deepest existing one may be what a crash left before its fsync. If we
    // may not even look into its parent, it was not us who created it.
    let _ = sync_dir(parent(existing));
    for dir in missing.into_iter().rev() {
        point("durable::before-mkdir")
            .and_then(|()| match DirBuilder::new().mode(mode).create(dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
                created => created,
            })
            .map_err(Error::of("create directory", dir))?;
        sync_dir(parent(dir))?;
    }
    Ok(())
}

/// Removes the drafts in `dir` that no living process is writing; tells how many.
/// For directories that are ours alone.
pub fn remove_stale(dir: &Path) -> Result<usize> {
    sweep(dir, is_draft_name)
}

/// Removes the drafts of one target that no living process is writing.
pub fn remove_stale_drafts_of(target: &Path) -> Result<usize> {
    let name = target.file_name().unwrap_or_default().as_encoded_bytes();
    sweep(parent(target), |found| {
        let suffix = found.as_bytes().strip_prefix(name);
        is_draft_name(found) && suffix.is_some_and(|suffix| suffix.len() == 1 + 16 + TEMP_SUFFIX.len())
    })
}

fn sweep(dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<usize> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(Error::of("list", dir))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(Error::of("list", dir))?;
        if !entry.file_name().to_str().is_some_and(&is_ours) {
            continue;
        }
        let path = entry.path();
        // Gone already, or not ours to open: either way not ours to remove.
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_file(&path).map_err(Error::of("remove", &path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a file name is one that `Draft` gives.
fn is_draft_name(name: &str) -> bool {
    name.strip_suffix(TEMP_SUFFIX).and_then(|rest| rest.rsplit_once('.')).is_some_and(|(name, digits)| {
        !name.is_empty() && digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn temp_name(target: &Path) -> PathBuf {
    // The standard library seeds each of these differently; `create_new` settles
    // the rest.
    temp_name_of(target, RandomState::new().build_hasher().finish())
}

fn temp_name_of(target: &Path, unique: u64) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{unique:016x}{TEMP_SUFFIX}"));
    target.with_file_name(name)
}

/// Locks a draft against `remove_stale`; false if that was faster. Where the
/// file system knows no locks, `remove_stale` gets none either and removes nothing.
fn claim(file: &File) -> bool {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => false,
        _ => file.metadata().is_ok_and(|found| found.nlink() > 0),
    }
}

/// Gives `temp` the name `target` unless that is taken. By preference with a
/// rename that does not replace; else with a hard link, which never replaces;
/// file systems with neither (some in user space) get a look before the rename,
/// under a lock of the directory, which excludes writers on this host only.
fn place_new(temp: &Path, target: &Path) -> io::Result<()> {
    let attempts = [rename_no_replace, link_and_unlink, look_and_rename];
    let mut outcome = Err(io::ErrorKind::Unsupported.into());
    for attempt in attempts {
        outcome = attempt(temp, target);
        let unsupported = outcome.as_ref().err().and_then(Errno::from_io_error).is_some_and(|errno| {
            [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::PERM, Errno::MLINK].contains(&errno)
        });
        if !unsupported {
            break;
        }
    }
    outcome
}

fn rename_no_replace(temp: &Path, target: &Path) -> io::Result<()> {
    point("durable::rename-no-replace")?;
    Ok(renameat_with(CWD, temp, CWD, target, RenameFlags::NOREPLACE)?)
}

fn link_and_unlink(temp: &Path, target: &Path) -> io::Result<()> {
    point("durable::link")?;
    fs::hard_link(temp, target)?;
    // The content has its name; a second one that stays is a stale draft.
    let _ = fs::remove_file(temp);
    Ok(())
}

fn look_and_rename(temp: &Path, target: &Path) -> io::Result<()> {
    let dir = File::open(parent(target))?;
    let _ = flock(&dir, FlockOperation::LockExclusive);
    match fs::symlink_metadata(target) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(temp, target),
        Err(e) => Err(e),
    }
}

/// The directory a name is in; a bare name is in the working directory.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A place where tests let an operation fail with an error number they name, or
/// end the process as power loss would: nothing is cleaned up.
#[cfg(feature = "failpoints")]
pub(crate) fn point(name: &str) -> io::Result<()> {
    fail::fail_point!(name, |wish| match wish.as_deref() {
        Some("abort") => std::process::abort(),
        number => Err(io::Error::from_raw_os_error(number.and_then(|n| n.parse().ok()).unwrap_or(5))),
    });
    Ok(())
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn point(_name: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_published_draft_is_the_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("state");
        replace(&target, b"one", PRIVATE_FILE).unwrap();
        replace(&target, b"two", PRIVATE_FILE).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_new_name_is_refused_where_anything_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "old").unwrap();
        fs::create_dir(at("dir")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        for name in ["file", "dir", "link"] {
            let error = write_new(&at(name), b"new", PRIVATE_FILE).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["dir", "file", "link"]);
        write_new(&at("fresh"), b"new", PRIVATE_FILE).unwrap();
        assert_eq!(fs::read(at("fresh")).unwrap(), b"new");
    }

    #[test]
    fn every_way_to_take_a_name_refuses_a_taken_one() {
        for place in [rename_no_replace, link_and_unlink, look_and_rename] {
            let dir = tempfile::tempdir().unwrap();
            let (temp, target) = (dir.path().join("temp"), dir.path().join("target"));
            fs::write(&temp, "first").unwrap();
            place(&temp, &target).unwrap();
            assert_eq!(names(dir.path()), ["target"]);
            fs::write(&temp, "second").unwrap();
            assert_eq!(place(&temp, &target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&target).unwrap(), b"first");
            fs::remove_file(&target).unwrap();
            std::os::unix::fs::symlink("nowhere", &target).unwrap();
            assert_eq!(place(&temp, &target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn of_many_writers_racing_for_a_name_one_wins() {
        for place in [rename_no_replace, link_and_unlink, look_and_rename] {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join("target");
            let start = Barrier::new(16);
            let winners: Vec<u8> = thread::scope(|scope| {
                let runs: Vec<_> = (0..16u8)
                    .map(|n| {
                        let (start, target) = (&start, &target);
                        scope.spawn(move || {
                            let mut draft = Draft::create(target, PRIVATE_FILE).unwrap();
                            draft.append(&[n; 1000]).unwrap();
                            start.wait();
                            place(draft.path(), target).is_ok().then_some(n)
                        })
                    })
                    .collect();
                runs.into_iter().filter_map(|run| run.join().unwrap()).collect()
            });
            let [winner] = winners[..] else { panic!("winners: {winners:?}") };
            assert_eq!(fs::read(&target).unwrap(), [winner; 1000]);
            assert_eq!(names(dir.path()), ["target"]);
        }
    }

    #[test]
    fn a_reader_never_sees_half_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("state");
        replace(&target, &[0; 100_000], PRIVATE_FILE).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=50 {
                    replace(&target, &[n; 100_000], PRIVATE_FILE).unwrap();
                }
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                let content = fs::read(&target).unwrap();
                assert_eq!(content, vec![content[0]; 100_000]);
            }
        });
    }

    #[test]
    fn a_draft_that_is_not_published_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut draft = Draft::create(&dir.path().join("x"), PRIVATE_FILE).unwrap();
        draft.append(b"half").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(draft);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn only_drafts_without_a_writer_are_stale() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let live = Draft::create(&at("live"), PRIVATE_FILE).unwrap();
        let kept = ["segment.ltx", "segment.ltx.tmp", "a.0123.tmp", ".0123456789abcdef.tmp"];
        for name in kept.iter().chain(&["dead.0123456789abcdef.tmp", "segment.ltx.00000000deadbeef.tmp"]) {
            fs::write(at(name), "half").unwrap();
        }
        assert_eq!(remove_stale(dir.path()).unwrap(), 2);
        let live_name = live.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected: Vec<&str> = kept.iter().copied().chain([live_name.as_str()]).collect();
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected);
        live.publish_new().unwrap();
        assert_eq!(remove_stale(dir.path()).unwrap(), 0);
        assert_eq!(remove_stale(&at("nowhere")).unwrap(), 0);
    }

    #[test]
    fn modes_are_those_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for wanted in [0o600, 0o640, 0o666] {
            let target = dir.path().join(format!("{wanted:o}"));
            replace(&target, b"", wanted).unwrap();
            assert_eq!(mode(&target), wanted);
        }
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep, 0o700).unwrap();
        create_dir_all(&deep, 0o755).unwrap();
        assert_eq!([mode(&deep), mode(&dir.path().join("a"))], [0o700, 0o700]);
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = create_dir_all(&file.join("below"), 0o700).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot create directory {}", file.display()));
    }
}
