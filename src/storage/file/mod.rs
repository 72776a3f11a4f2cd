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

mod upload;
mod verdict;
mod walk;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::{Body, Error, ErrorKind, Key, Object, Progress, PutOptions, Result, Storage};
use crate::durable::{self, Draft, PRIVATE_DIR, PRIVATE_FILE, TEMP_SUFFIX};

use upload::Upload;
use verdict::{failed, failed_durable, judge};

/// A directory as a storage.
#[derive(Clone, Debug)]
pub struct FileStorage(Arc<Directory>);

/// File operations under way at once. More do not make a disk faster, and when a
/// network share hangs, these are all the threads it can hold on to.
const TURNS: usize = 16;

/// Bytes moved between two signs of life: large enough that system calls do not
/// matter, small enough to take less than a second on a slow network share.
const PIECE: usize = 256 * 1024;

#[derive(Debug)]
struct Directory {
    root: PathBuf,
    file_mode: u32,
    dir_mode: u32,
    /// Folders this process has made durable and swept: a handful.
    ready: Mutex<Vec<PathBuf>>,
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
        self.blocking(move |directory, progress| directory.list(&prefix, after.as_ref(), progress)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |directory, progress| directory.get(&key, range, progress)).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let name = key.clone();
        let mut upload = self.blocking(move |directory, progress| directory.begin(name, progress)).await?;
        match body {
            Body::Bytes(bytes) => {
                self.blocking(move |_, _| {
                    upload.write(&bytes)?;
                    upload.publish(options)
                })
                .await
            }
            Body::File(path) => {
                self.blocking(move |_, _| {
                    upload.copy_from(&path)?;
                    upload.publish(options)
                })
                .await
            }
            Body::Stream(mut chunks) => {
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk.map_err(|e| Error::broken_off(key, e))?;
                    upload = self.blocking(move |_, _| upload.write(&chunk).map(|()| upload)).await?;
                }
                self.blocking(move |_, _| upload.publish(options)).await
            }
        }
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let keys = keys.to_vec();
        self.blocking(move |directory, _| directory.delete(&keys)).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |directory, _| directory.copy(&from, &to)).await
    }
}

/// What `link` says where files have one name only: EPERM, EXDEV, EMLINK.
const NO_SECOND_NAMES: [i32; 3] = [
    rustix::io::Errno::PERM.raw_os_error(),
    rustix::io::Errno::XDEV.raw_os_error(),
    rustix::io::Errno::MLINK.raw_os_error(),
];

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

    fn list(&self, prefix: &Key, after: Option<&Key>, progress: &Progress) -> Result<Vec<Object>> {
        let dir = if *prefix == Key::ROOT { self.root.clone() } else { self.path(prefix)? };
        walk::page(&dir, prefix, after, progress).map_err(|e| failed("list", prefix, e))
    }

    fn get(&self, key: &Key, range: Range<u64>, progress: &Progress) -> Result<Bytes> {
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
        let mut at = range.start;
        for piece in bytes.chunks_mut(PIECE) {
            file.read_exact_at(piece, at).map_err(unread)?;
            at += piece.len() as u64;
            progress.moved();
        }
        Ok(bytes.into())
    }

    /// Starts an object, in a folder that exists, durably, without leftovers.
    fn begin(&self, key: Key, progress: &Progress) -> Result<Upload> {
        let path = self.path(&key)?;
        let folder = self.folder(&path);
        let draft = if self.ready().iter().any(|known| known == folder) {
            Draft::create(&path, self.file_mode)
        } else {
            self.first(&path)
        };
        let draft = match draft {
            // Somebody removed the folder while we run.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.first(&path),
            draft => draft,
        };
        let draft = draft.map_err(|e| failed_durable(&key, e))?;
        Ok(Upload::new(draft, key, progress.clone()))
    }

    /// The first draft in its folder.
    fn first(&self, path: &Path) -> durable::Result<Draft> {
        let folder = self.folder(path);
        durable::create_dir_all(folder, self.dir_mode)?;
        durable::remove_stale(folder)?;
        let draft = Draft::create(path, self.file_mode)?;
        let mut ready = self.ready();
        if !ready.iter().any(|known| known == folder) {
            ready.reserve_exact(1);
            ready.push(folder.to_path_buf());
        }
        Ok(draft)
    }

    fn folder<'a>(&'a self, path: &'a Path) -> &'a Path {
        path.parent().unwrap_or(&self.root)
    }

    fn ready(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A second name for the same file: objects never change, and whoever replaces
    /// one replaces the name. Some file systems have no second names.
    fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let folder = self.folder(&target);
        let unmade = |e| failed_durable(to, e);
        durable::create_dir_all(folder, self.dir_mode).map_err(unmade)?;
        match fs::hard_link(&source, &target) {
            Ok(()) => durable::sync_dir(folder).map_err(unmade).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::exists(to)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::missing(from)),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
                    || matches!(e.raw_os_error(), Some(code) if NO_SECOND_NAMES.contains(&code)) =>
            {
                Ok(false)
            }
            Err(e) => Err(failed("copy", to, e)),
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
