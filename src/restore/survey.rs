//! Which replica to restore from, and along which chain.
//!
//! Every replica is asked. TXIDs are counted by each for itself, so what makes
//! one better than another is the time of the newest point it can offer.

use futures::stream;
use futures::{StreamExt, TryStreamExt, future};

use crate::replica::{Replica, Segment};
use crate::types::{Timestamp, Txid};

use super::error::RestoreError;
use super::plan::{Holdings, Plan, PlanError, Target};
use super::points::{Found, Step, TimeSearch};
use super::ranges::Point;

/// Headers read at once when looking for an instant.
const HEADERS_AT_ONCE: usize = 16;

/// Headers read in search of a new beginning, the newest first: after longer
/// than that a snapshot has been due.
const HEADERS_BEHIND_A_BREAK: usize = 1000;

/// Listings before a replica is taken at its word that something is missing: a
/// listing taken while segments are merged can miss both the old and the new.
const LISTINGS: u32 = 2;

/// One replica that can reach the target.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The replica.
    pub replica: Replica,
    /// The chain.
    pub plan: Plan,
    /// The time of the point it ends at.
    pub time: Timestamp,
    /// The points next to it, if it was looked for by its time.
    pub neighbours: Neighbours,
}

/// What lies next to a point that was found by its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The newest point before it that can be restored.
    pub before: Option<Point>,
    /// The oldest point after it that can be restored.
    pub after: Option<Point>,
}

/// The replicas that can reach the target, the one with the newest data first.
pub async fn survey(replicas: &[Replica], target: Target) -> Result<Vec<Candidate>, RestoreError> {
    if replicas.len() > 1 && matches!(target, Target::Txid(_)) {
        let names = replicas.iter().map(|replica| replica.name().to_owned()).collect();
        return Err(RestoreError::WhichReplica { names });
    }
    let looks = future::join_all(replicas.iter().map(|replica| look(replica, target))).await;
    let mut candidates = Vec::new();
    let mut errors = Vec::new();
    for (replica, look) in replicas.iter().zip(looks) {
        match look {
            Ok(candidate) => candidates.push(candidate),
            Err(error) => errors.push((replica, error)),
        }
    }
    if candidates.is_empty() {
        // "Empty" is the answer only if no replica has anything else to say.
        let telling = errors.iter().position(|(_, error)| !matches!(error, RestoreError::Plan(PlanError::NoBackup)));
        return Err(match errors.into_iter().nth(telling.unwrap_or(0)) {
            Some((_, error)) => error,
            None => PlanError::NoBackup.into(),
        });
    }
    for (replica, error) in errors {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(replica = replica.name(), error, "replica cannot be restored from, using another one");
    }
    // Stable: of equals, the one that is configured first.
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.time));
    Ok(candidates)
}

/// What one replica has to offer.
pub(super) async fn look(replica: &Replica, target: Target) -> Result<Candidate, RestoreError> {
    let mut listings = 1;
    loop {
        let mut holdings = list(replica).await?;
        let error = match choose(replica, &holdings, target).await {
            Err(error) if is_worth_another_look(&error) => error,
            outcome => return outcome,
        };
        if listings == LISTINGS {
            if !is_a_break(&error) {
                return Err(error);
            }
            learn_beginnings(replica, &mut holdings).await?;
            return choose(replica, &holdings, target).await;
        }
        listings += 1;
    }
}

/// What one replica holds, with every beginning that its headers tell of.
pub(super) async fn holdings(replica: &Replica) -> Result<Holdings, RestoreError> {
    let mut holdings = list(replica).await?;
    if holdings.break_in_history().is_some() {
        holdings = list(replica).await?;
        learn_beginnings(replica, &mut holdings).await?;
    }
    Ok(holdings)
}

fn is_worth_another_look(error: &RestoreError) -> bool {
    match error {
        RestoreError::Plan(PlanError::NoBackup) => false,
        RestoreError::Plan(_) => true,
        error => error.is_vanished(),
    }
}

fn is_a_break(error: &RestoreError) -> bool {
    matches!(error, RestoreError::Plan(PlanError::Gap { .. } | PlanError::NoBase { .. }))
}

async fn list(replica: &Replica) -> Result<Holdings, RestoreError> {
    let listed = replica.list_all().await;
    let listing = listed.map_err(|source| RestoreError::List { replica: replica.name().to_owned(), source })?;
    Ok(Holdings::new(listing.segments().copied()))
}

async fn choose(replica: &Replica, holdings: &Holdings, target: Target) -> Result<Candidate, RestoreError> {
    let (plan, neighbours) = match target {
        Target::Latest => (holdings.latest()?, Neighbours::default()),
        Target::Txid(txid) => (holdings.exactly(txid)?, Neighbours::default()),
        Target::Timestamp(time) => {
            let Found { point, before, after } = newest_at(replica, holdings, time).await?;
            (holdings.exactly(point.txid)?, Neighbours { before, after })
        }
    };
    let newest = plan.segments().last().expect("a plan is never empty");
    let time = replica.read_header(newest).await?.timestamp;
    Ok(Candidate { replica: replica.clone(), plan, time, neighbours })
}

/// History is broken, or has no beginning. Capture that cannot go on from what
/// was there writes the whole database as one segment, so there may be a new
/// beginning behind the break; only headers tell.
async fn learn_beginnings(replica: &Replica, holdings: &mut Holdings) -> Result<(), RestoreError> {
    let Some(first) = holdings.break_in_history() else { return Ok(()) };
    let mut behind: Vec<Segment> =
        holdings.segments().iter().copied().filter(|segment| segment.txids.min() >= first).collect();
    behind.sort_by_key(|segment| std::cmp::Reverse(segment.txids.max()));
    behind.truncate(HEADERS_BEHIND_A_BREAK);
    let headers = stream::iter(behind)
        .map(|segment| async move { Ok::<_, RestoreError>((segment, replica.read_header(&segment).await?)) })
        .buffer_unordered(HEADERS_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    for (segment, _) in headers.iter().filter(|(_, header)| header.is_complete()) {
        holdings.learn_complete(*segment);
    }
    Ok(())
}

/// The newest transaction captured at or before `time`.
async fn newest_at(replica: &Replica, holdings: &Holdings, time: Timestamp) -> Result<Found, RestoreError> {
    let mut search = TimeSearch::new(holdings, time)?;
    loop {
        let wanted = match search.step()? {
            Step::Found(found) => return Ok(found),
            Step::Read(wanted) => wanted,
        };
        let times = stream::iter(wanted)
            .map(
                |txid| async move { Ok::<_, RestoreError>((txid, time_of(replica, holdings.segments(), txid).await?)) },
            )
            .buffer_unordered(HEADERS_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        for (txid, time) in times {
            search.learn(txid, time);
        }
    }
}

/// The earliest time among the segments that end there. There is at least one.
pub(super) async fn time_of(replica: &Replica, segments: &[Segment], txid: Txid) -> Result<Timestamp, RestoreError> {
    let mut earliest = Timestamp::from_millis(i64::MAX);
    for segment in segments.iter().filter(|segment| segment.txids.max() == txid) {
        earliest = earliest.min(replica.read_header(segment).await?.timestamp);
    }
    Ok(earliest)
}
