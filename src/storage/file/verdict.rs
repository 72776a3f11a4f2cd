//! What errors of the operating system mean for a storage, and what to do about them.

use std::io;

use rustix::io::Errno;

use super::super::{Error, ErrorKind, Key};
use crate::durable;

pub(super) fn failed(action: &str, key: &Key, e: io::Error) -> Error {
    let (kind, advice) = judge(&e);
    Error::new(kind, format!("cannot {action} {key}{advice}")).caused_by(e)
}

pub(super) fn failed_durable(key: &Key, e: durable::Error) -> Error {
    let (kind, advice) = match judge(&e.source) {
        // The folder vanished while we wrote into it.
        (ErrorKind::Missing, advice) => (ErrorKind::Later, advice),
        // That the name of the object is taken, the caller has seen before this.
        (ErrorKind::Exists, _) => (ErrorKind::Refused, FILE_FOR_DIRECTORY),
        judged => judged,
    };
    Error::new(kind, format!("cannot store {key}{advice}")).caused_by(e)
}

/// What to do about an error of the operating system. Errors we do not know may
/// pass: a wrong `Refused` would stop a replica that only had a bad moment.
pub(super) fn judge(e: &io::Error) -> (ErrorKind, &'static str) {
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
        Some(Errno::NOTDIR) => (ErrorKind::Refused, FILE_FOR_DIRECTORY),
        Some(Errno::ISDIR) => (ErrorKind::Refused, ": a directory is in the place of a file, move it away"),
        Some(Errno::LOOP) => (ErrorKind::Refused, ": symbolic links lead in a circle, correct them"),
        Some(Errno::NAMETOOLONG) => {
            (ErrorKind::Refused, ": the name is too long for the file system, shorten the path")
        }
        Some(Errno::FBIG) => (ErrorKind::Refused, ": the file is larger than the file system or the limit allows"),
        _ => (ErrorKind::Later, ""),
    }
}

const FILE_FOR_DIRECTORY: &str = ": something else is in the place of a directory, move it away";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_a_person_must_change_is_not() {
        let kind = |errno: Errno| judge(&errno.into()).0;
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
            Errno::ROFS,
            Errno::MFILE,
            Errno::NFILE,
            Errno::STALE,
            Errno::TIMEDOUT,
            Errno::NOMEM,
        ] {
            assert_eq!(kind(errno), ErrorKind::Later, "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP, Errno::NAMETOOLONG] {
            assert_eq!(kind(errno), ErrorKind::Refused, "{errno}");
        }
        assert_eq!(kind(Errno::NOENT), ErrorKind::Missing);
        assert_eq!(kind(Errno::EXIST), ErrorKind::Exists);
    }

    #[test]
    fn a_full_disk_is_called_by_its_name() {
        let key = Key::new("a/b").unwrap();
        let error = failed("store", &key, Errno::NOSPC.into());
        assert_eq!(error.to_string(), "cannot store a/b: the disk is full, make room");
        assert!(std::error::Error::source(&error).is_some());
    }
}
