//! `-all` with a URL: every replica that is found below it.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::cli::error::CliError;
use crate::cli::open::{self, Place};
use crate::config::{Backend, ReplicaSettings};
use crate::replica::discover;
use crate::storage::{Key, Retry, Storage};

/// A replica below the URL.
pub(super) struct Found {
    /// How to open it.
    pub(super) settings: ReplicaSettings,
    /// Its path below the URL; empty if the URL is the replica.
    pub(super) path: PathBuf,
}

/// Looks for replicas where the settings lead to.
pub(super) async fn below(settings: &ReplicaSettings) -> Result<Vec<Found>, CliError> {
    let Place { storage, root, layout, .. } = open::place(settings)?;
    let storage: Arc<dyn Storage> = Arc::new(Retry::new(storage));
    let folder = match root.as_str().trim_matches('/') {
        "" | "." => Key::ROOT,
        path => Key::new(path).map_err(CliError::failed)?,
    };
    let roots = discover(&storage, &folder, layout).await.map_err(CliError::failed)?;
    let found = roots.into_iter().map(|root| {
        let path = root.as_str().strip_prefix(folder.as_str()).unwrap_or(root.as_str());
        // A key may begin with a slash or have two in a row.
        let parts = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
        Found { path: parts.collect(), settings: at(settings, root) }
    });
    Ok(found.collect())
}

/// The same settings for another root in the same storage.
fn at(settings: &ReplicaSettings, root: Key) -> ReplicaSettings {
    let mut settings = settings.clone();
    match &mut settings.backend {
        Backend::File { directories } => {
            let place = open::directory(directories);
            *directories = vec![place.join(root.as_str())];
        }
        Backend::S3(s3) => s3.roots = vec![root],
        Backend::NotBuilt { .. } => {}
    }
    settings
}

/// The URL of a replica below another URL, for messages.
pub(super) fn joined(url: &str, path: &Path) -> String {
    let (place, query) = url.split_at(url.find('?').unwrap_or(url.len()));
    match path.as_os_str().is_empty() {
        true => url.to_owned(),
        false => format!("{}/{}{query}", place.trim_end_matches('/'), path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_extended_before_its_parameters() {
        let at = |url, path| joined(url, Path::new(path));
        assert_eq!(at("s3://b/x?endpoint=e", "y/z"), "s3://b/x/y/z?endpoint=e");
        assert_eq!(at("file:///r/", "a.db"), "file:///r/a.db");
        assert_eq!(at("file:///r", ""), "file:///r");
    }
}
