//! A directory as a storage: one file per object, folders as directories.
//!
//! Always true: a file that a listing shows is whole and durable, and carries
//! the timestamp it was stored with as its modification time. New names are
//! taken without a window in which two writers could both succeed (see
//! `durable`). Symbolic links to files are followed; below the folder that is
//! listed, links to directories are not.
//!
//! A crash can leave drafts (`*.tmp`), which listings hide. The first write to a
//! folder removes those whose writer is gone.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::{Body, Error, ErrorKind, Key, LIST_PAGE, Object, Progress, Put, PutOptions, Result, Storage};
use crate::durable::{self, Draft, PRIVATE_DIR, PRIVATE_FILE, TEMP_SUFFIX};
use crate::types::Timestamp;

/// A directory as a storage.
#[derive(Clone, Debug)]
pub struct FileStorage(Arc<Directory>);

/// File operations under way at once. More do not make a disk faster, and when a
/// network share hangs, these are all the threads it can hold on to.
const TURNS: usize = 16;

#[derive(Debug)]
struct Directory {
    root: PathBuf,
    file_mode: u32,
    dir_mode: u32,
    /// Folders this process has made durable and swept.
    ready: Mutex<HashSet<PathBuf>>,
    turns: Arc<Semaphore>,
}

impl FileStorage {
    /// Objects below `root`, which the first write creates. Only the owner may read them.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::with_modes(root, PRIVATE_FILE, PRIVATE_DIR)
    }

    /// Objects below `root`: files with exactly `file_mode`, new directories with
    /// `dir_mode` less the umask.
    pub fn with_modes(root: impl Into<PathBuf>, file_mode: u32, dir_mode: u32) -> Self {
        Self(Arc::new(Directory {
            root: root.into(),
            file_mode,
            dir_mode,
            ready: Mutex::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }))
    }

    /// Runs blocking file work where it does not hold up other tasks. Work that
    /// has begun is finished even when nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory, &Progress) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let directory = Arc::clone(&self.0);
        let progress = Progress::current();
        // Held until the work is done, not until its caller has lost patience.
        let turn = Arc::clone(&directory.turns).acquire_owned().await.expect("nobody closes the semaphore");
        let task = tokio::task::spawn_blocking(move || {
            let outcome = work(&directory, &progress);
            drop(turn);
            outcome
        });
        match task.await {
            Ok(done) => done,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(e) => Err(Error::new(ErrorKind::Later, "file work was cancelled at shutdown").caused_by(e)),
            },
        }
    }
}

#[async_trait]
impl Storage for FileStorage {
    fn kind(&self) -> &'static str {
        "file"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.blocking(move |directory, _| directory.list(&prefix, after.as_ref())).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |directory, _| directory.get(&key, range)).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let name = key.clone();
        let mut upload = self.blocking(move |directory, progress| directory.begin(name, progress)).await?;
        match body {
            Body::Bytes(bytes) => {
                self.blocking(move |directory, _| {
                    upload.write(&bytes)?;
                    directory.publish(upload, options)
                })
                .await
            }
            Body::File(path) => {
                self.blocking(move |directory, _| {
                    upload.copy_from(&path)?;
                    directory.publish(upload, options)
                })
                .await
            }
            Body::Stream(mut chunks) => {
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk.map_err(|e| Error::broken_off(key, e))?;
                    upload = self.blocking(move |_, _| upload.write(&chunk).map(|()| upload)).await?;
                }
                self.blocking(move |directory, _| directory.publish(upload, options)).await
            }
        }
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let keys = keys.to_vec();
        self.blocking(move |directory, _| directory.delete(&keys)).await
    }
}

impl Directory {
    /// Where an object is. Each key has exactly one place, so keys that a file
    /// system would fold together are refused, as are the names of drafts.
    fn path(&self, key: &Key) -> Result<PathBuf> {
        let text = key.as_str();
        if text.split('/').any(|segment| segment.is_empty() || segment == ".") {
            let advice = "a directory has no names that are empty, '.' or with doubled slashes: correct the path";
            return Err(Error::new(ErrorKind::Refused, format!("{text:?} cannot be a file: {advice}")));
        }
        if text.ends_with(TEMP_SUFFIX) {
            let advice = "names ending in .tmp are for unfinished files: choose another";
            return Err(Error::new(ErrorKind::Refused, format!("{text:?} cannot be an object: {advice}")));
        }
        Ok(self.root.join(text))
    }

    fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        let mut page = Vec::new();
        let (dir, stem) = if *prefix == Key::ROOT {
            (self.root.clone(), String::new())
        } else {
            (self.path(prefix)?, format!("{prefix}/"))
        };
        walk(&dir, &stem, after.map_or("", Key::as_str), &mut page).map_err(|e| failed("list", prefix, e))?;
        Ok(page)
    }

    fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(key)?;
        let unread = |e| failed("read", key, e);
        // Before opening: opening a pipe waits for its other end.
        let found = fs::metadata(&path).map_err(|e| match fs::symlink_metadata(&path) {
            Ok(_) if e.kind() == io::ErrorKind::NotFound => {
                Error::new(ErrorKind::Refused, format!("{key} is a symbolic link to nothing: restore its target"))
            }
            _ => unread(e),
        })?;
        if !found.is_file() {
            return Err(Error::new(ErrorKind::Refused, format!("{key} is not a regular file: move it away")));
        }
        let file = File::open(&path).map_err(unread)?;
        let size = file.metadata().map_err(unread)?.len();
        let length = range.end.checked_sub(range.start).filter(|_| range.end <= size);
        let Some(Ok(length)) = length.map(usize::try_from) else {
            return Err(Error::out_of_range(key, &range, size));
        };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map_err(unread)?;
        Ok(bytes.into())
    }

    /// Starts an object, in a folder that exists, durably, without leftovers.
    fn begin(&self, key: Key, progress: &Progress) -> Result<Upload> {
        let path = self.path(&key)?;
        let folder = self.folder(&path);
        let draft =
            if self.ready().contains(folder) { Draft::create(&path, self.file_mode) } else { self.first(&path) };
        let draft = match draft {
            // Somebody removed the folder while we run.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.first(&path),
            draft => draft,
        };
        let draft = draft.map_err(|e| failed_durable(&key, e))?;
        Ok(Upload { draft, key, progress: progress.clone(), unsynced: 0 })
    }

    /// The first draft in its folder.
    fn first(&self, path: &Path) -> durable::Result<Draft> {
        let folder = self.folder(path);
        durable::create_dir_all(folder, self.dir_mode)?;
        durable::remove_stale(folder)?;
        let draft = Draft::create(path, self.file_mode)?;
        self.ready().insert(folder.to_path_buf());
        Ok(draft)
    }

    fn folder<'a>(&'a self, path: &'a Path) -> &'a Path {
        path.parent().unwrap_or(&self.root)
    }

    fn ready(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, upload: Upload, options: PutOptions) -> Result<()> {
        let Upload { draft, key, .. } = upload;
        if let Some(timestamp) = options.timestamp {
            let time = SystemTime::from(timestamp);
            let times = FileTimes::new().set_accessed(time).set_modified(time);
            draft.file().set_times(times).map_err(|e| failed("set the time of", &key, e))?;
        }
        let published = match options.how {
            Put::New => draft.publish_new(),
            Put::Replace => draft.publish(),
        };
        match published {
            Err(e) if options.how == Put::New && e.kind() == io::ErrorKind::AlreadyExists => {
                // It may be there without being durable: ours, from before an
                // fsync that failed. Whoever compares may then rely on it.
                let path = self.path(&key)?;
                durable::sync_dir(self.folder(&path)).map_err(|e| failed_durable(&key, e))?;
                Err(Error::exists(&key))
            }
            published => published.map_err(|e| failed_durable(&key, e)),
        }
    }

    fn delete(&self, keys: &[Key]) -> Result<()> {
        let mut folders = HashSet::new();
        let mut outcome = Ok(());
        for key in keys {
            let removed = self.path(key).and_then(|path| match fs::remove_file(&path) {
                Ok(()) => {
                    folders.insert(self.folder(&path).to_path_buf());
                    Ok(())
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
                Err(e) => Err(failed("delete", key, e)),
            });
            outcome = outcome.and(removed);
        }
        for folder in folders {
            let synced = durable::sync_dir(&folder);
            outcome = outcome.and_then(|()| {
                synced.map_err(|e| {
                    let (kind, advice) = judge(&e.source);
                    Error::new(kind, format!("cannot make deletions last{advice}")).caused_by(e)
                })
            });
        }
        outcome
    }
}

/// Adds to `page` the objects in `dir` whose key sorts after `after`, in key
/// order, until it is full. `stem` is what their keys begin with.
fn walk(dir: &Path, stem: &str, after: &str, page: &mut Vec<Object>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    // Keys in the subdirectory "a" begin with "a/", which sorts behind "a-b".
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // We never write names that are not valid keys, so these are not ours.
        let Some(name) = name.to_str().filter(|name| !name.ends_with(TEMP_SUFFIX)) else { continue };
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        let key = format!("{stem}{name}{slash}");
        if key.as_str() > after || (slash == "/" && after.starts_with(&key)) {
            names.push(key);
        }
    }
    names.sort_unstable();
    for name in names {
        if page.len() == LIST_PAGE {
            break;
        }
        let path = dir.join(&name[stem.len()..]);
        if name.ends_with('/') {
            walk(&path, &name, after, page)?;
            continue;
        }
        let found = match fs::metadata(&path) {
            // Deleted since, or a link to nothing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if let (true, Ok(key)) = (found.is_file(), Key::new(name)) {
            page.push(Object { key, size: found.len(), modified: Timestamp::from(found.modified()?) });
        }
    }
    Ok(())
}

/// An object on its way in.
struct Upload {
    draft: Draft,
    key: Key,
    progress: Progress,
    unsynced: u64,
}

impl Upload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.draft.append(bytes).map_err(|e| failed_durable(&self.key, e))?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.draft.file().sync_data().map_err(|e| failed("store", &self.key, e))?;
            self.unsynced = 0;
        }
        self.progress.moved();
        Ok(())
    }

    fn copy_from(&mut self, path: &Path) -> Result<()> {
        let unreadable = |e: io::Error| {
            let (kind, advice) = match judge(&e) {
                (ErrorKind::Missing, _) => (ErrorKind::Refused, ": it is gone"),
                judged => judged,
            };
            Error::new(kind, format!("cannot read {} to store it{advice}", path.display())).caused_by(e)
        };
        let mut source = File::open(path).map_err(unreadable)?;
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.write(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(e)),
            }
        }
    }
}

/// Large enough that system calls do not matter, small enough for hundreds at once.
const COPY_BUFFER: usize = 256 * 1024;

/// A single fsync of a large file can take longer than a request may stay
/// silent; 64 MiB take a few seconds even on a slow network share.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

fn failed(action: &str, key: &Key, e: io::Error) -> Error {
    let (kind, advice) = judge(&e);
    Error::new(kind, format!("cannot {action} {key}{advice}")).caused_by(e)
}

fn failed_durable(key: &Key, e: durable::Error) -> Error {
    let (kind, advice) = match judge(&e.source) {
        // The folder vanished while we wrote into it.
        (ErrorKind::Missing, advice) => (ErrorKind::Later, advice),
        judged => judged,
    };
    Error::new(kind, format!("cannot store {key}{advice}")).caused_by(e)
}

/// What to do about an error of the operating system. Errors we do not know may
/// pass: a wrong `Refused` would stop a replica that only had a bad moment.
fn judge(e: &io::Error) -> (ErrorKind, &'static str) {
    match Errno::from_io_error(e) {
        Some(Errno::NOENT) => (ErrorKind::Missing, ""),
        Some(Errno::EXIST) => (ErrorKind::Exists, ""),
        Some(Errno::NOSPC) => (ErrorKind::Later, ": the disk is full, make room"),
        Some(Errno::DQUOT) => (ErrorKind::Later, ": the disk quota is used up, raise it or make room"),
        Some(Errno::ROFS) => (ErrorKind::Later, ": the file system is mounted read-only, remount it"),
        Some(Errno::MFILE | Errno::NFILE) => {
            (ErrorKind::Later, ": too many files are open, raise the limit (ulimit -n)")
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            (ErrorKind::Refused, ": no permission, give the user of this process access to the directory")
        }
        Some(Errno::NOTDIR) => (ErrorKind::Refused, ": a file is in the place of a directory, move it away"),
        Some(Errno::ISDIR) => (ErrorKind::Refused, ": a directory is in the place of a file, move it away"),
        Some(Errno::LOOP) => (ErrorKind::Refused, ": symbolic links lead in a circle, correct them"),
        Some(Errno::NAMETOOLONG) => {
            (ErrorKind::Refused, ": the name is too long for the file system, shorten the path")
        }
        Some(Errno::FBIG) => (ErrorKind::Refused, ": the file is larger than the file system or the limit allows"),
        _ => (ErrorKind::Later, ""),
    }
}
