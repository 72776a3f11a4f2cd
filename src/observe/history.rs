//! What can be restored from a replica, for the page's timeline.
//!
//! The segments are known without asking. The names of generations and the pins are
//! not: they are read when somebody looks, and kept for a while, so that a page left
//! open costs next to nothing.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Observer;
use super::view::DatabaseView;
use crate::daemon::Kept;
use crate::ltx::Level;
use crate::replica::{Pin, Run};
use crate::restore::points;

/// How long what was read is shown.
const FRESH: Duration = Duration::from_secs(300);
/// Reading is given up after this: the page then shows what is known without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Points on a timeline; more cannot be told apart on a screen.
const DOTS: usize = 400;

/// What was read, by database and replica.
#[derive(Debug, Default)]
pub(super) struct Histories(Mutex<HashMap<(u64, usize), (Instant, Read)>>);

#[derive(Clone, Debug, Default)]
struct Read {
    runs: Vec<Run>,
    pins: Vec<Pin>,
    error: Option<String>,
}

/// One database in detail.
#[derive(Debug, Serialize)]
pub(super) struct DetailView {
    #[serde(flatten)]
    pub(super) database: DatabaseView,
    /// How late it was during the last hour, oldest first, every 30 seconds.
    pub(super) lag_history: Vec<f32>,
    /// What each replica can give back.
    pub(super) timelines: Vec<Timeline>,
}

/// What one replica can give back.
#[derive(Debug, Serialize)]
pub(super) struct Timeline {
    replica: String,
    /// `None` before the replica was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// How many points there are.
    points: usize,
    /// Their times, or those of some of them, evenly chosen.
    dots: Vec<String>,
    snapshots: Vec<String>,
    generations: Vec<GenerationView>,
    pins: Vec<PinView>,
    /// Why the last two may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct GenerationView {
    generation: Option<String>,
    start: String,
    end: String,
}

#[derive(Debug, Serialize)]
struct PinView {
    name: String,
    txid: String,
    time: String,
}

impl Observer {
    /// One database in detail.
    pub(super) async fn detail(&self, id: u64) -> Option<DetailView> {
        let status = self.status();
        let database = status.databases.into_iter().find(|database| database.id == id)?;
        let lag_history = self.lag_history(id);
        let mut timelines = Vec::new();
        for (at, replica) in database.replicas.iter().enumerate() {
            let timeline = match self.source.kept(id, at) {
                Some(kept) => self.timeline((id, at), &kept).await,
                None => Timeline::unknown(&replica.name),
            };
            timelines.push(timeline);
        }
        Some(DetailView { database, lag_history, timelines })
    }

    async fn timeline(&self, of: (u64, usize), kept: &Kept) -> Timeline {
        let name = kept.replica.name();
        let Some(listing) = &kept.listing else { return Timeline::unknown(name) };
        let all = points(listing);
        let Read { runs, pins, error } = self.histories.read(of, kept).await;
        let shown = |time: crate::types::Timestamp| time.to_string();
        let step = all.len().div_ceil(DOTS).max(1);
        Timeline {
            replica: name.to_owned(),
            from: all.first().map(|point| shown(point.time)),
            to: all.last().map(|point| shown(point.time)),
            points: all.len(),
            dots: all.iter().rev().step_by(step).map(|point| shown(point.time)).collect(),
            snapshots: listing.level(Level::SNAPSHOT).iter().rev().take(DOTS).map(|s| shown(s.created)).collect(),
            generations: runs
                .iter()
                .map(|run| GenerationView {
                    generation: run.generation.map(|generation| generation.to_string()),
                    start: shown(run.start),
                    end: shown(run.end),
                })
                .collect(),
            pins: pins
                .iter()
                .map(|pin| PinView { name: pin.name.to_string(), txid: pin.txid.to_string(), time: shown(pin.time) })
                .collect(),
            error,
        }
    }
}

impl Timeline {
    fn unknown(replica: &str) -> Self {
        Self {
            replica: replica.to_owned(),
            from: None,
            to: None,
            points: 0,
            dots: Vec::new(),
            snapshots: Vec::new(),
            generations: Vec::new(),
            pins: Vec::new(),
            error: None,
        }
    }
}

impl Histories {
    async fn read(&self, of: (u64, usize), kept: &Kept) -> Read {
        let known = self.0.lock().expect("no holder of this lock panics").get(&of).cloned();
        if let Some((at, read)) = known
            && at.elapsed() < FRESH
        {
            return read;
        }
        let asked = tokio::time::timeout(PATIENCE, ask(kept)).await;
        let late = || Read { error: Some("the storage did not answer in time".to_owned()), ..Read::default() };
        let read = asked.unwrap_or_else(|_| late());
        self.0.lock().expect("no holder of this lock panics").insert(of, (Instant::now(), read.clone()));
        read
    }
}

async fn ask(kept: &Kept) -> Read {
    let Some(listing) = &kept.listing else { return Read::default() };
    let (runs, pins) = futures::join!(kept.replica.generations(listing), kept.replica.pins());
    let error = runs.as_ref().err().or(pins.as_ref().err()).map(ToString::to_string);
    Read { runs: runs.unwrap_or_default(), pins: pins.unwrap_or_default(), error }
}
