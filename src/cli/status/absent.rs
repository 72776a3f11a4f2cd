//! Without a daemon: what the local state and the log show, held against the
//! newest segment of each replica. Costs listings of the replicas.

use std::time::Duration;

use futures::future::join_all;

use super::row::{Reason, Row, Seen, SeenReplica};
use crate::capture::state::State;
use crate::capture::{LocalState, Options};
use crate::causes::with_causes;
use crate::cli::error::CliError;
use crate::cli::open;
use crate::config::{Database, ReplicaSettings};
use crate::ltx::Header;
use crate::replica::Listing;
use crate::types::Timestamp;

/// Looks at each of them. `timeout` is for each replica.
pub(super) fn look(databases: &[Database], timeout: Option<Duration>) -> Result<Vec<Row>, CliError> {
    let rows = databases.iter().map(|database| async move {
        let shelves = database.replicas.iter().map(|settings| newest(settings, timeout));
        let shelves = join_all(shelves).await;
        row(database, local(database), shelves)
    });
    Ok(crate::cli::runtime()?.block_on(join_all(rows)))
}

/// What is known on this machine.
struct Here {
    exists: bool,
    wal_bytes: u64,
    state: Option<State>,
    uncaptured: Option<u32>,
    trouble: Option<String>,
}

/// What a replica holds.
struct There {
    listing: Listing,
    newest: Option<Header>,
}

fn local(database: &Database) -> Here {
    let usual = Options::new(&database.path);
    let options = Options { meta_path: database.meta_path.clone().unwrap_or(usual.meta_path.clone()), ..usual };
    let mut trouble = None;
    let mut told = |error: std::io::Error| trouble = Some(format!("the local state cannot be read: {error}"));
    let state = LocalState::peek(&options).unwrap_or_else(|error| {
        told(error);
        None
    });
    let uncaptured = state.as_ref().map(|state| LocalState::uncaptured(&options, state)).transpose();
    let uncaptured = uncaptured.unwrap_or_else(|error| {
        told(error);
        None
    });
    Here {
        exists: database.path.exists(),
        wal_bytes: std::fs::metadata(options.log_path()).map_or(0, |meta| meta.len()),
        state,
        uncaptured: uncaptured.flatten(),
        trouble,
    }
}

async fn newest(settings: &ReplicaSettings, timeout: Option<Duration>) -> Result<There, String> {
    let look = async {
        let replica = open::replica(settings).map_err(|error| error.to_string())?;
        let listing = replica.list_all().await.map_err(|error| with_causes(&error))?;
        let last = listing.segments().max_by_key(|s| (s.txids.max(), std::cmp::Reverse(s.level))).copied();
        let newest = match last {
            Some(last) => Some(replica.read_header(&last).await.map_err(|error| with_causes(&error))?),
            None => None,
        };
        Ok(There { listing, newest })
    };
    match timeout {
        Some(timeout) => {
            tokio::time::timeout(timeout, look).await.unwrap_or(Err("it did not answer in time".to_owned()))
        }
        None => look.await,
    }
}

fn row(database: &Database, here: Here, shelves: Vec<Result<There, String>>) -> Row {
    let mut reasons = vec![Reason::new("degraded", "no-daemon", "no daemon could be asked")];
    if let Some(trouble) = here.trouble {
        reasons.push(Reason::new("failed", "local", trouble));
    }
    if let Some(frames @ 1..) = here.uncaptured {
        reasons.push(Reason::new("failed", "uncaptured", format!("{frames} committed frames are not captured")));
    }
    let replicas: Vec<SeenReplica> = database
        .replicas
        .iter()
        .zip(shelves)
        .map(|(settings, there)| replica(settings, there, here.state.as_ref()))
        .collect();
    for seen in &replicas {
        for reason in &seen.reasons {
            let text = format!("replica {}: {}", seen.name, reason.text);
            reasons.push(Reason::new(&reason.grade, &reason.cause, text));
        }
    }
    reasons.sort_by_key(|reason| reason.grade != "failed");
    let worst = if reasons.iter().any(|reason| reason.grade == "failed") { "failed" } else { "degraded" };
    let state = match (here.exists, &here.state) {
        (false, _) => "waiting",
        (true, None) => "starting",
        (true, Some(_)) => "absent",
    };
    let seen = Seen {
        health: worst.to_owned(),
        reasons,
        state: state.to_owned(),
        seen_frames: None,
        uncaptured_frames: here.uncaptured,
        generation: here.state.map(|state| state.generation.to_string()),
        captured_batch: here.state.map(|state| state.seq.get()),
        captured_at: here.state.map(|state| state.timestamp.to_string()),
        lag_seconds: replicas.iter().map(|replica| replica.lag_seconds).fold(0.0, f64::max),
        wal_bytes: here.wal_bytes,
        replicas,
    };
    let mut row = Row::new(database.path.display().to_string(), "files", seen);
    // Nothing is replicated now, but all that is known to be captured may be there.
    if row.status == "degraded" {
        row.status = "ok".to_owned();
    }
    row
}

fn replica(settings: &ReplicaSettings, there: Result<There, String>, state: Option<&State>) -> SeenReplica {
    let mut seen = SeenReplica {
        name: settings.name.clone(),
        r#type: settings.backend.kind().name().to_owned(),
        health: "ok".to_owned(),
        ..SeenReplica::default()
    };
    let mut add = |cause: &str, text: String| {
        seen.health = "failed".to_owned();
        seen.reasons.push(Reason::new("failed", cause, text));
    };
    match there {
        Err(error) => add("storage", error),
        Ok(There { listing, newest }) => {
            match (&newest, state) {
                (None, Some(_)) => add("behind", "it holds nothing".to_owned()),
                (Some(newest), Some(state)) if !holds(newest, state) => {
                    let late = seconds_between(newest.timestamp, state.timestamp);
                    let text = if newest.generation == Some(state.generation) {
                        "it lacks commits that are captured on this machine".to_owned()
                    } else {
                        "it ends with another history than this machine's".to_owned()
                    };
                    add("behind", text);
                    seen.lag_seconds = late;
                }
                _ => {}
            }
            seen.txid = listing.position().map(|txid| txid.to_string());
            seen.confirmed_at = newest.map(|newest| newest.timestamp.to_string());
            seen.oldest = listing.segments().map(|segment| segment.created).min().map(|time| time.to_string());
        }
    }
    seen
}

/// The same database, byte for byte.
fn holds(newest: &Header, state: &State) -> bool {
    newest.generation == Some(state.generation) && newest.proof.as_ref().is_some_and(|p| p.after == state.checksum)
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    let millis = later.as_millis().saturating_sub(earlier.as_millis()).max(0);
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let seconds = millis as f64 / 1000.0;
    seconds
}
