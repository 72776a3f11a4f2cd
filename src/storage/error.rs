//! What can go wrong with a storage, named after what the caller does next.

use std::fmt;

use super::Key;

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such object: list again.
    Missing,
    /// The name is taken, by another writer or by our own earlier attempt: compare.
    Exists,
    /// It may work later: try again, slower each time.
    Later,
    /// It will not work until a person changes something: stop and tell.
    Refused,
}

/// A storage request that did not do what it was asked to.
#[derive(Debug)]
pub struct Error {
    /// What the caller does next.
    pub kind: ErrorKind,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The storage asked for fewer requests.
    pub throttled: bool,
    /// What caused it.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What storage requests return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that nothing below caused.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), throttled: false, source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same, said to be the storage's wish for fewer requests.
    #[must_use]
    pub fn throttled(mut self) -> Self {
        self.throttled = true;
        self
    }

    /// There is no such object.
    pub fn missing(key: &Key) -> Self {
        Self::new(ErrorKind::Missing, format!("{key} does not exist"))
    }

    /// The name is taken.
    pub fn exists(key: &Key) -> Self {
        Self::new(ErrorKind::Exists, format!("{key} exists already"))
    }

    /// The body ended in an error.
    pub fn broken_off(key: &Key, e: std::io::Error) -> Self {
        Self::new(ErrorKind::Later, format!("the content for {key} broke off")).caused_by(e)
    }

    /// A backend returned another number of bytes than it was asked for.
    pub fn cut_short(key: &Key, wanted: u64, got: usize) -> Self {
        Self::new(ErrorKind::Later, format!("{got} of {wanted} wanted bytes of {key} arrived"))
    }

    /// A range that runs backwards or ends behind the object.
    pub fn out_of_range(key: &Key, range: &std::ops::Range<u64>, size: u64) -> Self {
        let std::ops::Range { start, end } = range;
        Self::new(
            ErrorKind::Refused,
            format!("{key} has {size} bytes, bytes {start} to {end} were wanted: it is damaged if a listing says more"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
