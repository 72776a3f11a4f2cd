//! Events of directories: something may have come or gone.
//!
//! One watch per directory, for names that appear and go. What is written into
//! files is not listened to: a busy database costs nothing here.

use std::path::Path;

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A name has come or gone that matters.
    Change,
    /// Events were lost: anything may have happened.
    Overflow,
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::News;
#[cfg(target_os = "linux")]
pub use linux::News;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::ffi::OsStr;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use rustix::io::Errno;
    use tokio::io::unix::AsyncFd;

    use super::{Heard, Path};

    /// Events read at once.
    const BUFFER: usize = 64 * 1024;

    /// The watches.
    #[derive(Debug)]
    pub struct News {
        queue: AsyncFd<OwnedFd>,
        dirs: HashMap<i32, PathBuf>,
    }

    impl News {
        /// Hears of nothing yet. Needs a tokio runtime.
        ///
        /// # Errors
        /// The system has no more of them.
        pub fn new() -> io::Result<Self> {
            let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            #[expect(deprecated, reason = "what it warns of, a descriptor that changes, an OwnedFd of ours cannot do")]
            let queue = AsyncFd::new(queue)?;
            Ok(Self { queue, dirs: HashMap::new() })
        }

        /// Hears of what comes and goes in a directory from now on; `true` if it did not before.
        ///
        /// # Errors
        /// There are no more watches, or the directory has gone.
        pub fn listen(&mut self, dir: &Path) -> io::Result<bool> {
            let events = WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR;
            let watch = inotify::add_watch(&self.queue, dir, events)?;
            Ok(self.dirs.insert(watch, dir.to_owned()).is_none())
        }

        /// Waits for an event that matters: `matters` is asked about the path, and
        /// whether it was only written to.
        ///
        /// # Errors
        /// The queue cannot be read; then there will be no more events.
        pub async fn next(&mut self, matters: impl Fn(&Path, bool) -> bool) -> io::Result<Heard> {
            loop {
                let mut ready = self.queue.readable().await?;
                let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
                let mut reader = inotify::Reader::new(self.queue.get_ref(), &mut buffer);
                let mut heard = None;
                let mut gone = Vec::new();
                loop {
                    let event = match reader.next() {
                        Ok(event) => event,
                        Err(Errno::AGAIN) => {
                            ready.clear_ready();
                            break;
                        }
                        Err(Errno::INTR) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    let flags = event.events();
                    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                        heard = Some(Heard::Overflow);
                        continue;
                    }
                    if flags.contains(ReadFlags::IGNORED) {
                        gone.push(event.wd());
                        continue;
                    }
                    let Some(dir) = self.dirs.get(&event.wd()) else { continue };
                    let only_written = flags.contains(ReadFlags::CLOSE_WRITE);
                    let path = match event.file_name() {
                        Some(name) => dir.join(OsStr::from_bytes(name.to_bytes())),
                        None => dir.clone(),
                    };
                    let is_dir = flags.contains(ReadFlags::ISDIR) || path == *dir;
                    if heard.is_none() && (is_dir || matters(&path, only_written)) {
                        heard = Some(Heard::Change);
                    }
                }
                for watch in gone {
                    self.dirs.remove(&watch);
                }
                if let Some(heard) = heard {
                    return Ok(heard);
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;

    use super::{Heard, Path};

    /// There is none here: directories are looked at now and then.
    #[derive(Debug)]
    pub struct News;

    impl News {
        /// Always refused.
        ///
        /// # Errors
        /// Always.
        pub fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// Never called.
        ///
        /// # Errors
        /// Never.
        pub fn listen(&mut self, _: &Path) -> io::Result<bool> {
            Ok(false)
        }

        /// Never called.
        ///
        /// # Errors
        /// Never.
        pub async fn next(&mut self, _: impl Fn(&Path, bool) -> bool) -> io::Result<Heard> {
            std::future::pending().await
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    async fn heard(news: &mut News) -> Option<Heard> {
        let matters = |path: &Path, written: bool| !written && path.extension().is_some_and(|e| e == "db");
        tokio::time::timeout(Duration::from_millis(300), news.next(matters)).await.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn names_that_come_and_go_are_news_and_writing_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut news = News::new().unwrap();
        news.listen(dir.path()).unwrap();
        fs::write(&path, "x").unwrap();
        assert_eq!(heard(&mut news).await, Some(Heard::Change));
        assert_eq!(heard(&mut news).await, None);
        fs::write(&path, "y").unwrap();
        fs::write(dir.path().join("a.db-wal"), "y").unwrap();
        assert_eq!(heard(&mut news).await, None);
        fs::rename(&path, dir.path().join("b.db")).unwrap();
        assert_eq!(heard(&mut news).await, Some(Heard::Change));
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(heard(&mut news).await, Some(Heard::Change), "there may be something in it already");
    }
}
