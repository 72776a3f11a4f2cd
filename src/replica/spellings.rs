//! One place, several spellings. Litestream takes the root of a replica in S3
//! as it is written, so `s3://bucket`, `s3://bucket/` and `path: db/` beside
//! `path: db` lead to different keys. Whoever changes the spelling would find an
//! empty replica, and begin another history beside the one that is there.
//!
//! Always true: as long as there is data under the configured spelling, that one
//! is used; else the first other one with data; and once one is chosen it stays,
//! so nothing is written to two places in one run. Only levels are looked for and
//! moved: other keys below the root pass as they are.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::ltx::Level;
use crate::storage::{Body, ErrorKind, Key, Object, PutOptions, Result, Storage};
use crate::types::Timestamp;

use super::keys::Layout;

/// A storage in which keys below the configured root stand for those below the
/// root that has data.
pub struct Spellings {
    storage: Arc<dyn Storage>,
    layout: Layout,
    /// The configured root, then its other spellings.
    roots: Vec<Key>,
    /// Which of them. Not known before the first request, so that a storage that
    /// cannot be reached is an error of that request.
    chosen: OnceCell<usize>,
}

/// The levels in which every replica with data has some: what is captured, and
/// snapshots.
const LOOKED_AT: [Level; 2] = [Level::L0, Level::SNAPSHOT];

impl Spellings {
    /// The storage as seen from the first of these roots.
    pub fn new(storage: Arc<dyn Storage>, layout: Layout, roots: Vec<Key>) -> Self {
        Self { storage, layout, roots, chosen: OnceCell::new() }
    }

    async fn choice(&self) -> Result<usize> {
        match self.chosen.get_or_try_init(|| self.look()).await {
            // Who may not look works where it is told to, or is told by the storage that it may not.
            Err(error) if error.kind == ErrorKind::Refused => Ok(0),
            chosen => chosen.copied(),
        }
    }

    async fn look(&self) -> Result<usize> {
        for (at, root) in self.roots.iter().enumerate() {
            for level in LOOKED_AT {
                let page = match self.storage.list(&self.layout.folder(root, level), None).await {
                    // Rights may end at the configured spelling. Then there is nothing to find elsewhere.
                    Err(error) if at > 0 && error.kind == ErrorKind::Refused => Vec::new(),
                    listed => listed?,
                };
                if !page.is_empty() {
                    if at > 0 {
                        tracing::warn!(
                            configured = self.roots[0].as_str(),
                            used = root.as_str(),
                            "the replica has data under another spelling of its path and is used there"
                        );
                    }
                    return Ok(at);
                }
            }
        }
        Ok(0)
    }

    /// Where a key really is.
    async fn real(&self, key: &Key) -> Result<Key> {
        match self.choice().await? {
            0 => Ok(key.clone()),
            at => Ok(self.moved(key, &self.roots[0], &self.roots[at])),
        }
    }

    /// The key of a level below one root as it is below another one; other keys as they are.
    fn moved(&self, key: &Key, from: &Key, to: &Key) -> Key {
        let mut folders = Level::all().map(|level| (self.layout.folder(from, level), self.layout.folder(to, level)));
        let moved = folders.find_map(|(from, to)| {
            let rest = key.as_str().strip_prefix(from.as_str())?;
            let inside = rest.is_empty() || rest.starts_with('/');
            inside.then(|| Key::new(format!("{to}{rest}")).expect("both halves were legal"))
        });
        moved.unwrap_or_else(|| key.clone())
    }
}

#[async_trait]
impl Storage for Spellings {
    fn kind(&self) -> &'static str {
        self.storage.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        let at = self.choice().await?;
        let real = self.real(prefix).await?;
        let after = match after {
            Some(after) => Some(self.real(after).await?),
            None => None,
        };
        let mut objects = self.storage.list(&real, after.as_ref()).await?;
        if at > 0 {
            for object in &mut objects {
                object.key = self.moved(&object.key, &self.roots[at], &self.roots[0]);
            }
        }
        Ok(objects)
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.storage.get(&self.real(key).await?, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.storage.put(&self.real(key).await?, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let mut real = Vec::with_capacity(keys.len());
        for key in keys {
            real.push(self.real(key).await?);
        }
        self.storage.delete(&real).await
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        let at = self.choice().await?;
        let real = if *prefix == self.roots[0] { self.roots[at].clone() } else { self.real(prefix).await? };
        self.storage.tidy(&real, before).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        self.storage.copy(&self.real(from).await?, &self.real(to).await?).await
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        self.storage.timestamp(&self.real(key).await?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Error, MemoryStorage, Put};

    const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    async fn holding(keys: &[&str]) -> Arc<MemoryStorage> {
        let storage = Arc::new(MemoryStorage::new());
        for text in keys {
            storage.put(&key(text), vec![1, 2, 3].into(), NEW).await.unwrap();
        }
        storage
    }

    fn seen(storage: &Arc<MemoryStorage>, roots: &[&str]) -> Spellings {
        Spellings::new(storage.clone(), Layout::Hex, roots.iter().map(|root| key(root)).collect())
    }

    async fn keys(storage: &dyn Storage, folder: &str) -> Vec<String> {
        let objects = storage.list(&key(folder), None).await.unwrap();
        objects.iter().map(|object| object.key.to_string()).collect()
    }

    #[tokio::test]
    async fn data_under_another_spelling_is_found_and_continued_there() {
        let storage = holding(&["/0000/a", "/0009/b", "other/0000/c"]).await;
        let seen = seen(&storage, &[".", ""]);
        assert_eq!(keys(&seen, "./0000").await, ["./0000/a"]);
        assert_eq!(seen.get(&key("./0009/b"), 0..3).await.unwrap().len(), 3);
        seen.put(&key("./0000/d"), vec![4].into(), NEW).await.unwrap();
        assert_eq!(keys(&*storage, "/0000").await, ["/0000/a", "/0000/d"]);
        let taken = seen.put(&key("./0000/a"), vec![4].into(), NEW).await.unwrap_err();
        assert_eq!(taken.kind, ErrorKind::Exists);
        seen.delete(&[key("./0000/a")]).await.unwrap();
        assert_eq!(keys(&seen, "./0000").await, ["./0000/d"]);
        assert_eq!(seen.list(&key("./0000"), Some(&key("./0000/d"))).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_configured_spelling_wins_when_it_has_data_or_nobody_has() {
        let storage = holding(&["db//0000/a", "db/0009/b"]).await;
        let both = seen(&storage, &["db", "db/"]);
        assert_eq!(keys(&both, "db/0000").await, [""; 0]);
        both.put(&key("db/0000/x"), vec![1].into(), NEW).await.unwrap();
        assert_eq!(keys(&*storage, "db/0000").await, ["db/0000/x"]);

        let storage = holding(&[]).await;
        let neither = seen(&storage, &["db/", "db", "/db"]);
        neither.put(&key("db//0000/x"), vec![1].into(), NEW).await.unwrap();
        storage.put(&key("db/0000/y"), vec![1].into(), NEW).await.unwrap();
        assert_eq!(keys(&neither, "db//0000").await, ["db//0000/x"], "once chosen it stays");
    }

    /// Rights that end at one folder.
    struct Fenced(MemoryStorage, &'static str);

    #[async_trait]
    impl Storage for Fenced {
        fn kind(&self) -> &'static str {
            "fenced"
        }
        async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
            match prefix.as_str().starts_with(self.1) {
                true => self.0.list(prefix, after).await,
                false => Err(Error::new(ErrorKind::Refused, "AccessDenied")),
            }
        }
        async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
            self.0.get(key, range).await
        }
        async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
            self.0.put(key, body, options).await
        }
        async fn delete(&self, keys: &[Key]) -> Result<()> {
            self.0.delete(keys).await
        }
    }

    #[tokio::test]
    async fn rights_for_the_configured_spelling_are_enough() {
        let roots = || vec![key("db"), key("/db")];
        let allowed = Spellings::new(Arc::new(Fenced(MemoryStorage::new(), "db/")), Layout::Hex, roots());
        allowed.put(&key("db/0000/x"), vec![1].into(), NEW).await.unwrap();
        assert_eq!(keys(&allowed, "db/0000").await, ["db/0000/x"]);
        let denied = Spellings::new(Arc::new(Fenced(MemoryStorage::new(), "other/")), Layout::Hex, roots());
        assert_eq!(denied.list(&key("db/0000"), None).await.unwrap_err().kind, ErrorKind::Refused);
        denied.put(&key("db/0000/x"), vec![1].into(), NEW).await.unwrap();
        assert_eq!(denied.get(&key("db/0000/x"), 0..1).await.unwrap(), vec![1]);
    }

    #[tokio::test]
    async fn only_levels_are_moved() {
        let storage = holding(&["db//0000/a", "db/generations/x", "db/0000-old/y"]).await;
        let seen = seen(&storage, &["db", "db/"]);
        assert_eq!(keys(&seen, "db/0000").await, ["db/0000/a"]);
        assert_eq!(keys(&seen, "db/generations").await, ["db/generations/x"]);
        assert_eq!(keys(&seen, "db/0000-old").await, ["db/0000-old/y"]);
    }
}
