//! Without a daemon: whether the files have changed since what the replicas hold.
//!
//! Times are compared, so this is a suspicion and no proof: a checkpoint changes a
//! file without a commit. That the daemon does not run is the news.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;

use super::state::{Line, State, Thresholds};
use crate::causes::with_causes;
use crate::cli::error::CliError;
use crate::cli::open;
use crate::config::{Database, ReplicaSettings};
use crate::replica::Replica;
use crate::types::Timestamp;

/// Without a limit of one's own, changes that are older than this should have arrived.
const OLD: Duration = Duration::from_secs(300);

pub(super) fn compare(
    databases: &[&Database],
    thresholds: Thresholds,
    timeout: Duration,
) -> Result<Vec<Line>, CliError> {
    let critical = thresholds.critical.unwrap_or(OLD);
    let looks = databases.iter().flat_map(|database| {
        database.replicas.iter().map(move |settings| async move {
            let name = format!("{}: replica {}", database.path.display(), settings.name);
            let newest = tokio::time::timeout(timeout, newest(settings)).await;
            match newest {
                Ok(Ok(newest)) => line(&name, changed(&database.path), newest, critical),
                Ok(Err(error)) => Some(Line::new(State::Unknown, format!("{name}: {error}"))),
                Err(_) => Some(Line::new(State::Unknown, format!("{name}: the storage did not answer in time"))),
            }
        })
    });
    let looks: Vec<_> = looks.collect();
    let lines = crate::cli::runtime()?.block_on(join_all(looks));
    Ok(lines.into_iter().flatten().collect())
}

fn line(name: &str, changed: Option<Timestamp>, newest: Option<Timestamp>, critical: Duration) -> Option<Line> {
    let critical = i64::try_from(critical.as_millis()).unwrap_or(i64::MAX);
    match (changed, newest) {
        // No file: nothing can have been left behind.
        (None, _) => None,
        (Some(_), None) => Some(Line::new(State::Critical, format!("{name} holds nothing"))),
        (Some(changed), Some(newest)) => {
            let late = changed.as_millis().saturating_sub(newest.as_millis());
            let text = format!("{name} ends at {newest}, and the database was changed at {changed}");
            (late > critical).then(|| Line::new(State::Critical, text))
        }
    }
}

/// The time of the newest transaction on a replica.
async fn newest(settings: &ReplicaSettings) -> Result<Option<Timestamp>, String> {
    let replica: Replica = open::replica(settings).map_err(|error| error.to_string())?;
    let listing = replica.list_all().await.map_err(|error| with_causes(&error))?;
    let last = listing.segments().max_by_key(|segment| (segment.txids.max(), std::cmp::Reverse(segment.level)));
    match last {
        Some(last) => {
            replica.read_header(last).await.map(|header| Some(header.timestamp)).map_err(|error| with_causes(&error))
        }
        None => Ok(None),
    }
}

/// When the database or its log was last changed.
fn changed(path: &Path) -> Option<Timestamp> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let time = |path: &Path| {
        let meta = std::fs::metadata(path).ok().filter(|meta| meta.len() > 0)?;
        meta.modified().ok().map(Timestamp::from)
    };
    time(path).max(time(Path::new(&log)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_long_after_the_newest_copy_was_left_behind() {
        let at = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        let state = |changed, newest| line("x", changed, newest, OLD).map(|line| line.state);
        assert_eq!(state(None, None), None);
        assert_eq!(state(at(1000), None), Some(State::Critical));
        assert_eq!(state(at(1000), at(999)), None);
        assert_eq!(state(at(1300), at(999)), Some(State::Critical));
        assert_eq!(state(at(1000), at(5000)), None);
    }
}
