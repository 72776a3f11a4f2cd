//! Which databases have a replica below one place: what a directory held, told
//! by its backup alone.

use super::Layout;
use crate::ltx;
use crate::storage::{Key, Result, Storage};

/// The paths, relative to `all`, of the databases with a segment below it.
///
/// Costs about one request per database, however long their histories are.
///
/// # Errors
/// From the storage.
pub async fn databases_below(storage: &dyn Storage, all: &Key, layout: Layout) -> Result<Vec<String>> {
    let stem = match all.as_str().trim_end_matches('/') {
        "" | "." => String::new(),
        all => format!("{all}/"),
    };
    let prefix = Key::new(stem.trim_end_matches('/')).expect("part of a key is a key");
    let mut databases: Vec<String> = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = storage.list(&prefix, after.as_ref()).await?;
        let Some(last) = page.last() else { return Ok(databases) };
        let mut next = last.key.clone();
        for object in &page {
            let Some(relative) = object.key.as_str().strip_prefix(&stem) else { continue };
            if let Some(database) = owner(relative, layout) {
                if databases.last().is_none_or(|known| known != database) {
                    databases.push(database.to_owned());
                }
                // Nothing of this one needs to be seen again: '0' comes right behind '/'.
                let behind = Key::new(format!("{stem}{database}0")).expect("a key with a digit behind it is a key");
                next = next.max(behind);
            }
        }
        databases.sort_unstable();
        databases.dedup();
        after = Some(next);
    }
}

/// The database that an object belongs to, if it is a segment.
fn owner(relative: &str, layout: Layout) -> Option<&str> {
    let (folder, file) = relative.rsplit_once('/')?;
    ltx::parse_file_name(file)?;
    let (above, level) = folder.rsplit_once('/')?;
    let database = match layout {
        Layout::Decimal => above.strip_suffix("/ltx").filter(|_| level.len() == 1)?,
        Layout::Hex => Some(above).filter(|_| level.len() == 4)?,
    };
    level.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(database)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::{Body, MemoryStorage, Put, PutOptions};

    async fn storage(keys: &[&str]) -> MemoryStorage {
        let storage = MemoryStorage::default();
        for key in keys {
            let options = PutOptions { how: Put::New, timestamp: None };
            storage.put(&Key::new(*key).unwrap(), Body::Bytes(Bytes::new()), options).await.unwrap();
        }
        storage
    }

    #[tokio::test]
    async fn the_databases_of_a_directory_are_told_by_its_backup() {
        let file = "0000000000000001-0000000000000001.ltx";
        let keys = [
            format!("all/a.db/ltx/0/{file}"),
            format!("all/a.db/ltx/9/{file}"),
            format!("all/a.db0/ltx/0/{file}"),
            format!("all/a.db-x/ltx/0/{file}"),
            format!("all/eu/b.db/ltx/1/{file}"),
            "all/note.txt".to_owned(),
            "all/c.db/ltx/0/other".to_owned(),
            format!("other/d.db/ltx/0/{file}"),
        ];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let storage = storage(&keys).await;
        let found = databases_below(&storage, &Key::new("all").unwrap(), Layout::Decimal).await.unwrap();
        assert_eq!(found, ["a.db", "a.db-x", "a.db0", "eu/b.db"]);
    }

    #[tokio::test]
    async fn in_a_bucket_as_well() {
        let file = "0000000000000001-0000000000000001.ltx";
        let keys = [format!("a.db/0000/{file}"), format!("eu/b.db/0009/{file}"), format!("a.db/pins/{file}")];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let storage = storage(&keys).await;
        for root in ["", "."] {
            let found = databases_below(&storage, &Key::new(root).unwrap(), Layout::Hex).await.unwrap();
            assert_eq!(found, ["a.db", "eu/b.db"]);
        }
    }
}
