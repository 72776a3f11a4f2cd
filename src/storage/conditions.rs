//! A wrapper for storages that may not do what they are told about free names.
//!
//! Several services that speak S3 answer 200 to a put that was conditional on a
//! free name, and overwrite. What a storage does is found out from the first put
//! that can be sent a second time: a service that honours conditions refuses the
//! second one, one that ignores them stores the same bytes again.
//!
//! Always true: unless conditions are known to be honoured, no name is put before
//! a read has found it free. That is a weaker promise than a condition: of two
//! writers that look at the same moment both see the name free.
//!
//! Credentials that may only create and read cannot look: S3 does not tell them
//! that a name is free. For them a small object of a fixed name, [`PROBE`], is put
//! beside the first one, which tells the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Error, ErrorKind, Key, Object, Put, PutOptions, Result, Storage};
use crate::types::Timestamp;

/// Larger bodies are not sent twice to find out.
const PROBE_MAX: usize = 1 << 20;

/// The name of the object that tells when nothing else does.
pub const PROBE: &str = "brooklet.probe";

/// Whether a storage refuses to put a taken name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Nothing was put yet that would have told.
    Unknown,
    /// It does.
    Honoured,
    /// It overwrites.
    Ignored,
}

/// What is known about one place; shared by all who write there.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<AtomicU8>);

impl Known {
    /// What is known now.
    pub fn get(&self) -> Conditions {
        match self.0.load(Ordering::Relaxed) {
            1 => Conditions::Honoured,
            2 => Conditions::Ignored,
            _ => Conditions::Unknown,
        }
    }

    /// Remembers; tells whether that is news.
    pub fn learn(&self, conditions: Conditions) -> bool {
        let number = match conditions {
            Conditions::Unknown => 0,
            Conditions::Honoured => 1,
            Conditions::Ignored => 2,
        };
        self.0.swap(number, Ordering::Relaxed) != number
    }
}

/// A storage whose conditions are not taken at their word.
#[derive(Debug)]
pub struct Conditional<S> {
    inner: S,
    known: Known,
    /// For the warning.
    place: String,
}

impl<S: Storage> Conditional<S> {
    /// Wraps a storage; `place` names it in the log.
    pub fn new(inner: S, place: impl Into<String>, known: Known) -> Self {
        Self { inner, known, place: place.into() }
    }

    /// Fails unless the name is free, or conditions turn out to be honoured.
    async fn free(&self, key: &Key) -> Result<()> {
        let refused = match self.inner.get(key, 0..0).await {
            Ok(_) => return Err(Error::exists(key)),
            Err(error) if error.kind == ErrorKind::Missing => return Ok(()),
            Err(error) if error.kind == ErrorKind::Refused => error,
            Err(error) => return Err(error),
        };
        if self.known.get() == Conditions::Unknown {
            let folder = key.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
            let name = if key.as_str().contains('/') { format!("{folder}/{PROBE}") } else { PROBE.to_owned() };
            let probe = Key::new(name).expect("a folder of a legal key with a legal name");
            let body =
                Bytes::from_static(b"Put by brooklet to find out whether conditional writes are honoured here.\n");
            let options = PutOptions { how: Put::New, timestamp: None };
            match self.inner.put(&probe, Body::Bytes(body.clone()), options).await {
                Err(error) if error.kind == ErrorKind::Exists => self.learn(Conditions::Honoured),
                Err(error) => return Err(error),
                Ok(()) => self.find_out(&probe, body, options).await,
            }
        }
        match self.known.get() {
            Conditions::Honoured => Ok(()),
            _ => Err(Error {
                message: format!("{} (needed because conditional writes are ignored here)", refused.message),
                ..refused
            }),
        }
    }

    /// The second put of the same bytes tells what the first one did not. Its
    /// outcome is not the caller's concern: the object is there.
    async fn find_out(&self, key: &Key, body: Bytes, options: PutOptions) {
        match self.inner.put(key, Body::Bytes(body), options).await {
            Err(error) if error.kind == ErrorKind::Exists => self.learn(Conditions::Honoured),
            Ok(()) => self.learn(Conditions::Ignored),
            Err(error) => tracing::debug!(%error, "could not find out whether conditional writes are honoured"),
        }
    }

    fn learn(&self, conditions: Conditions) {
        if self.known.learn(conditions) && conditions == Conditions::Ignored {
            tracing::warn!(
                storage = self.place,
                "this storage ignores conditional writes: two writers on one replica are noticed late, \
                 by reading before each write; make sure that only one program writes to it"
            );
        }
    }
}

#[async_trait]
impl<S: Storage> Storage for Conditional<S> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.inner.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        let known = self.known.get();
        if options.how == Put::Replace || known == Conditions::Honoured {
            return self.inner.put(key, body, options).await;
        }
        self.free(key).await?;
        let again = match &body {
            Body::Bytes(bytes) if self.known.get() == Conditions::Unknown && bytes.len() <= PROBE_MAX => {
                Some(bytes.clone())
            }
            _ => None,
        };
        let put = self.inner.put(key, body, options).await;
        if let (Ok(()), Some(bytes)) = (&put, again) {
            self.find_out(key, bytes, options).await;
        }
        put
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete(keys).await
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        self.inner.tidy(prefix, before).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        if self.known.get() != Conditions::Honoured {
            self.free(to).await?;
        }
        self.inner.copy(from, to).await
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        self.inner.timestamp(key).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{StreamExt, stream};

    use super::super::MemoryStorage;
    use super::*;

    /// Notes requests; does not care about conditions if told so.
    #[derive(Default)]
    struct Careless {
        memory: MemoryStorage,
        careless: bool,
        reads_fail: Option<ErrorKind>,
        requests: Mutex<Vec<&'static str>>,
    }

    impl Careless {
        fn note(&self, request: &'static str) {
            self.requests.lock().unwrap().push(request);
        }
    }

    #[async_trait]
    impl Storage for Careless {
        fn kind(&self) -> &'static str {
            "careless"
        }

        async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
            self.memory.list(prefix, after).await
        }

        async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
            self.note("get");
            if let Some(kind) = self.reads_fail {
                return Err(Error::new(kind, "no reading"));
            }
            self.memory.get(key, range).await
        }

        async fn put(&self, key: &Key, body: Body, mut options: PutOptions) -> Result<()> {
            self.note("put");
            if self.careless {
                options.how = Put::Replace;
            }
            self.memory.put(key, body, options).await
        }

        async fn delete(&self, keys: &[Key]) -> Result<()> {
            self.memory.delete(keys).await
        }
    }

    const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };

    fn wrapped(careless: bool) -> (Conditional<Arc<Careless>>, Arc<Careless>) {
        let storage = Arc::new(Careless { careless, ..Careless::default() });
        (Conditional::new(storage.clone(), "here", Known::default()), storage)
    }

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn bytes(text: &'static str) -> Body {
        Body::Bytes(Bytes::from_static(text.as_bytes()))
    }

    fn requests(storage: &Careless) -> Vec<&'static str> {
        std::mem::take(&mut storage.requests.lock().unwrap())
    }

    #[tokio::test]
    async fn the_first_put_tells_whether_conditions_are_honoured() {
        let (storage, log) = wrapped(false);
        storage.put(&key("a"), bytes("a"), NEW).await.unwrap();
        assert_eq!(storage.known.get(), Conditions::Honoured);
        assert_eq!(requests(&log), ["get", "put", "put"]);
        storage.put(&key("b"), bytes("b"), NEW).await.unwrap();
        assert_eq!(requests(&log), ["put"], "from then on nothing is asked first");
        assert_eq!(storage.put(&key("b"), bytes("x"), NEW).await.unwrap_err().kind, ErrorKind::Exists);
    }

    #[tokio::test]
    async fn where_conditions_are_ignored_a_taken_name_is_still_not_put() {
        let (storage, log) = wrapped(true);
        storage.put(&key("a"), bytes("a"), NEW).await.unwrap();
        assert_eq!(storage.known.get(), Conditions::Ignored);
        requests(&log);
        for body in [bytes("x"), Body::Stream(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed())] {
            assert_eq!(storage.put(&key("a"), body, NEW).await.unwrap_err().kind, ErrorKind::Exists);
        }
        assert_eq!(requests(&log), ["get", "get"]);
        assert_eq!(storage.get(&key("a"), 0..1).await.unwrap(), "a");
        storage.put(&key("b"), bytes("b"), NEW).await.unwrap();
        assert_eq!(requests(&log), ["get", "get", "put"], "found out once");
    }

    #[tokio::test]
    async fn what_cannot_be_sent_twice_is_looked_for_first() {
        let (storage, log) = wrapped(true);
        let large = Bytes::from(vec![0; PROBE_MAX + 1]);
        storage.put(&key("a"), Body::Bytes(large), NEW).await.unwrap();
        let stream = Body::Stream(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed());
        storage.put(&key("b"), stream, NEW).await.unwrap();
        assert_eq!(storage.known.get(), Conditions::Unknown);
        assert_eq!(requests(&log), ["get", "put", "get", "put"]);
        assert_eq!(storage.put(&key("b"), bytes("y"), NEW).await.unwrap_err().kind, ErrorKind::Exists);
    }

    fn unreadable(careless: bool, kind: ErrorKind) -> (Conditional<Arc<Careless>>, Arc<Careless>) {
        let storage = Arc::new(Careless { careless, reads_fail: Some(kind), ..Careless::default() });
        (Conditional::new(storage.clone(), "here", Known::default()), storage)
    }

    #[tokio::test]
    async fn nothing_is_put_when_the_look_fails() {
        let (storage, log) = unreadable(true, ErrorKind::Later);
        assert_eq!(storage.put(&key("a"), bytes("a"), NEW).await.unwrap_err().kind, ErrorKind::Later);
        assert_eq!(requests(&log), ["get"]);
    }

    /// S3 answers 403 to a look at a free name by somebody who must not list.
    #[tokio::test]
    async fn who_may_not_look_finds_out_with_an_object_of_its_own() {
        let (storage, log) = unreadable(false, ErrorKind::Refused);
        storage.put(&key("a/b"), bytes("b"), NEW).await.unwrap();
        assert_eq!(storage.known.get(), Conditions::Honoured);
        assert_eq!(requests(&log), ["get", "put", "put", "put"]);
        assert_eq!(log.memory.list(&key("a"), None).await.unwrap().len(), 2);
        // The next one finds the probe there.
        let next = Conditional::new(log.clone(), "here", Known::default());
        next.put(&key("a/c"), bytes("c"), NEW).await.unwrap();
        assert_eq!(requests(&log), ["get", "put", "put"]);
    }

    #[tokio::test]
    async fn who_may_not_look_puts_nothing_where_conditions_are_ignored() {
        let (storage, _) = unreadable(true, ErrorKind::Refused);
        let error = storage.put(&key("a"), bytes("a"), NEW).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(error.to_string(), "no reading (needed because conditional writes are ignored here)");
    }
}
