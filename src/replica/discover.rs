//! Which replicas are in a place: from the names of objects, however many there are.
//!
//! Always true: of each replica found some object exists, and what lies in the
//! folder of a replica is not looked through: that is one request for each.

use std::sync::Arc;

use super::keys::Layout;
use crate::ltx;
use crate::storage::{Key, LIST_PAGE, Result, Storage};
use crate::types::Generation;

/// Sorts behind every name that is given in the folder of a replica.
const BEHIND: &str = "~";

/// The roots of the replicas in a folder and its subfolders, in the order of their
/// keys: ours, those of Litestream 0.5, and those of 0.3.
pub async fn discover(storage: &Arc<dyn Storage>, folder: &Key, layout: Layout) -> Result<Vec<Key>> {
    let mut found: Vec<Key> = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = storage.list(folder, after.as_ref()).await?;
        let is_last = page.len() < LIST_PAGE;
        for object in page {
            let key = object.key;
            let Some(root) = root_of(&key, layout) else {
                after = Some(key);
                continue;
            };
            let behind = Key::new(format!("{root}/{BEHIND}")).expect("a legal root with a plain name is legal");
            if !found.contains(&root) {
                found.push(root);
            }
            after = Some(behind.max(key));
        }
        if is_last {
            return Ok(found);
        }
    }
}

/// The root of the replica that an object of this name belongs to.
fn root_of(key: &Key, layout: Layout) -> Option<Key> {
    let text = key.as_str();
    let root = segment_root(text, layout).or_else(|| older_root(text))?;
    Key::new(root).ok()
}

fn segment_root(key: &str, layout: Layout) -> Option<&str> {
    let (folder, name) = key.rsplit_once('/')?;
    ltx::parse_file_name(name)?;
    let (above, level) = folder.rsplit_once('/').unwrap_or(("", folder));
    let digits = match layout {
        Layout::Decimal => level,
        Layout::Hex => level.strip_prefix("000")?,
    };
    let is_level = digits.len() == 1 && digits.bytes().all(|b| b.is_ascii_digit());
    match layout {
        _ if !is_level => None,
        Layout::Hex => Some(above),
        Layout::Decimal if above == "ltx" => Some(""),
        Layout::Decimal => above.strip_suffix("/ltx"),
    }
}

fn older_root(key: &str) -> Option<&str> {
    let (root, rest) = match key.strip_prefix("generations/") {
        Some(rest) => ("", rest),
        None => key.split_once("/generations/")?,
    };
    let (generation, item) = rest.split_once('/')?;
    generation.parse::<Generation>().ok()?;
    (item.starts_with("snapshots/") || item.starts_with("wal/")).then_some(root)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::storage::{Body, MemoryStorage, Object, Put, PutOptions};

    struct CountsLists(MemoryStorage, AtomicUsize);

    #[async_trait]
    impl Storage for CountsLists {
        fn kind(&self) -> &'static str {
            "memory"
        }

        async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.list(prefix, after).await
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

    async fn found(keys: &[String], folder: &str, layout: Layout) -> (Vec<String>, usize) {
        let storage = Arc::new(CountsLists(MemoryStorage::new(), AtomicUsize::new(0)));
        for key in keys {
            let options = PutOptions { how: Put::New, timestamp: None };
            storage.put(&Key::new(key.as_str()).unwrap(), Body::from(vec![1]), options).await.unwrap();
        }
        let shared: Arc<dyn Storage> = storage.clone();
        let roots = discover(&shared, &Key::new(folder).unwrap(), layout).await.unwrap();
        (roots.iter().map(ToString::to_string).collect(), storage.1.load(Ordering::Relaxed))
    }

    fn name(n: u64) -> String {
        format!("{n:016x}-{n:016x}.ltx")
    }

    #[tokio::test]
    async fn replicas_of_every_kind_are_found_and_nothing_else() {
        let old = "generations/00000000000000aa/snapshots/00000001.snapshot.lz4";
        let keys = [
            format!("x/a.db/ltx/0/{}", name(1)),
            format!("x/a.db/ltx/9/{}", name(1)),
            format!("x/a.db-2/ltx/0/{}", name(1)),
            format!("x/deep/er/b/ltx/1/{}", name(1)),
            format!("x/old/{old}"),
            format!("x/both/{old}"),
            format!("x/both/ltx/0/{}", name(1)),
            format!("x/not/ltx/17/{}", name(1)),
            "x/not/ltx/0/notes.txt".to_owned(),
            "x/generations/readme".to_owned(),
            format!("y/ltx/0/{}", name(1)),
        ];
        let roots = found(&keys, "x", Layout::Decimal).await.0;
        assert_eq!(roots, ["x/a.db-2", "x/a.db", "x/both", "x/deep/er/b", "x/old"]);
        let keys = [
            format!("x/a.db/0000/{}", name(1)),
            format!("x/a.db/0009/{}", name(1)),
            format!("x/b//0000/{}", name(1)),
            format!("x/c/000a/{}", name(1)),
            format!("x/d/{old}"),
        ];
        assert_eq!(found(&keys, "x", Layout::Hex).await.0, ["x/a.db", "x/b/", "x/d"]);
        assert_eq!(found(&[format!("ltx/0/{}", name(1))], "", Layout::Decimal).await.0, [""]);
        assert_eq!(found(&[old.to_owned()], "", Layout::Decimal).await.0, [""]);
    }

    #[tokio::test]
    async fn what_is_in_a_replica_is_not_looked_through() {
        let many = |root: &str| (1..=2500).map(|n| format!("{root}/ltx/0/{}", name(n))).collect::<Vec<_>>();
        let keys = [many("x/a"), many("x/b"), many("x/c")].concat();
        let (roots, lists) = found(&keys, "x", Layout::Decimal).await;
        assert_eq!((roots.len(), lists), (3, 4));
    }
}
