//! Reading the segments: each to its end, and those of the newest chain from
//! the newest to the oldest, so that the pages of the newest database add up.

use super::finding::Finding;
use super::judge::{Chain, Examined, Sound, judge};
use super::read::{Object, Objects, Place, read_all};
use super::{ChainProof, Report, Scope, Shelf, holdings, newest_chain};
use crate::causes::with_causes;
use crate::ltx::{Decoder, Error, Header};
use crate::replica::{Replica, Segment};
use crate::restore::{Claims, PlanError};
use crate::storage;
use crate::storage::ErrorKind;
use crate::types::{Pgno, RollingChecksum, Timestamp, page_checksum};

/// How often the newest chain may lose a segment while it is read: merging takes
/// one away at most once in its life.
const LOOKS: u32 = 3;

/// Looks at all segments, or at those of the newest chain. Merging and retention
/// may be at work meanwhile: what is gone when it is to be read, and is not
/// listed any more either, was not lost.
pub(super) async fn inspect(
    replica: &Replica,
    mut segments: Vec<Segment>,
    scope: Scope,
    now: Timestamp,
    report: &mut Report,
) -> storage::Result<()> {
    let mut looks = 1;
    let (mut looked, names) = loop {
        let looked = look(replica, &segments, scope).await;
        if looked.gone.is_empty() {
            break (looked, segments);
        }
        let listed = Shelf::list(replica).await?.segments;
        let is_over = |segment: &Segment| !listed.contains(segment);
        let of_chain = looked.examined[..looked.in_chain].iter().any(|one| looked.gone.contains(&one.segment));
        if of_chain && looks < LOOKS {
            looks += 1;
            segments = listed;
            continue;
        }
        let over: Vec<Segment> = looked.gone.iter().filter(|segment| is_over(segment)).copied().collect();
        // What has replaced them is new in the listing.
        segments.retain(|segment| !over.contains(segment));
        segments.extend(listed.iter().filter(|new| !segments.contains(new)).copied().collect::<Vec<_>>());
        let mut looked = looked;
        if !of_chain {
            looked.examined.retain(|one| !over.contains(&one.segment));
        }
        break (looked, segments);
    };
    report.findings.extend(looked.error.take().and_then(|error| match error {
        PlanError::NoBase { first } => Some(Finding::NoBase { first }),
        PlanError::Gap { reached, next } => Some(Finding::Gap { reached, next }),
        _ => None,
    }));
    // A note about stored times makes sense only where the storage keeps them.
    let keeps_times = replica.kind() == "file";
    let Looked { examined, in_chain, proof, .. } = looked;
    judge(Chain { examined, in_chain, proof, names, keeps_times, scope, now }, report);
    Ok(())
}

/// What one look has found.
struct Looked {
    examined: Vec<Examined>,
    in_chain: usize,
    proof: Result<ChainProof, Finding>,
    /// Why the chain does not reach the newest point.
    error: Option<PlanError>,
    /// Segments that were listed and were not there.
    gone: Vec<Segment>,
}

async fn look(replica: &Replica, segments: &[Segment], scope: Scope) -> Looked {
    let (chain, error) = newest_chain(&holdings(replica, segments).await);
    let mut order: Vec<Segment> = chain.iter().flat_map(|chain| chain.segments().iter().rev().copied()).collect();
    let in_chain = order.len();
    if scope == Scope::All {
        order.extend(
            segments.iter().filter(|segment| !order[..in_chain].contains(segment)).copied().collect::<Vec<_>>(),
        );
    }
    let place = |segment: &Segment| Place { key: replica.key(segment.level, segment.txids), size: segment.size };
    let places: Vec<Place> = order.iter().map(place).collect();
    let job = Job { order, places: places.clone(), in_chain, scope };
    read_all(replica, places, move |objects: &mut Objects| Looked { error, ..job.run(objects) }).await
}

/// The objects to read: the first `in_chain` of them are the newest chain,
/// newest first.
struct Job {
    order: Vec<Segment>,
    places: Vec<Place>,
    in_chain: usize,
    scope: Scope,
}

impl Job {
    /// Decodes every object that is needed.
    fn run(self, objects: &mut Objects) -> Looked {
        let Self { order, places, mut in_chain, scope } = self;
        let mut walk: Option<Walk> = None;
        let mut broken = in_chain == 0;
        let mut examined = Vec::with_capacity(order.len());
        let mut gone = Vec::new();
        for (at, (segment, place)) in order.iter().zip(&places).enumerate() {
            if scope == Scope::Chain && is_complete(&walk) {
                // As in a restore, nothing older is needed.
                in_chain = at;
                break;
            }
            let mut object = objects.next();
            let chain = (at < in_chain && !broken).then_some(&mut walk);
            let chain = chain.filter(|walk| !is_complete(walk));
            let needed = chain.is_some();
            let outcome = decode(&mut object, chain);
            let outcome = outcome.map_err(|error| match object.failure() {
                Some(failure) => {
                    if failure.kind == ErrorKind::Missing {
                        gone.push(*segment);
                    }
                    Finding::Unreadable { key: place.key.clone(), reason: failure.to_string() }
                }
                None => Finding::Damaged { key: place.key.clone(), reason: with_causes(&error) },
            });
            let outcome = outcome.and_then(|sound| match sound.header.txids == segment.txids {
                true => Ok(sound),
                false => Err(Finding::Misnamed { key: place.key.clone(), header: sound.header.txids }),
            });
            broken |= needed && outcome.is_err();
            examined.push(Examined { segment: *segment, key: place.key.clone(), outcome });
        }
        let proof = match (broken, walk, order.first()) {
            (false, Some(walk), Some(end)) => walk.finish(end),
            _ => Ok(ChainProof::None),
        };
        Looked { examined, in_chain, proof, error: None, gone }
    }
}

fn is_complete(walk: &Option<Walk>) -> bool {
    walk.as_ref().is_some_and(|walk| walk.claims.is_complete())
}

fn decode(object: &mut Object<'_>, chain: Option<&mut Option<Walk>>) -> Result<Sound, Error> {
    let mut decoder = Decoder::new(object)?;
    let header = *decoder.header();
    let mut walk = chain.map(|walk| walk.get_or_insert_with(|| Walk::new(&header)));
    let mut sum = RollingChecksum::default();
    let mut page = Vec::new();
    let mut pages = 0;
    while let Some(pgno) = decoder.next_page(&mut page)? {
        let checksum = page_checksum(pgno, &page);
        sum.toggle(checksum);
        pages += 1;
        if let Some(walk) = &mut walk
            && walk.takes(pgno, &header)
        {
            walk.sum.toggle(checksum);
        }
    }
    if let Some(walk) = walk {
        walk.claims.pass(header.commit);
    }
    Ok(Sound { header, sum: sum.checksum(), pages })
}

/// The newest database, as far as its pages have been met.
struct Walk {
    end: Header,
    claims: Claims,
    sum: RollingChecksum,
}

impl Walk {
    fn new(end: &Header) -> Self {
        let claims = Claims::new(end.commit, end.page_size);
        Self { end: *end, claims, sum: RollingChecksum::default() }
    }

    fn takes(&mut self, pgno: Pgno, header: &Header) -> bool {
        header.page_size == self.end.page_size && self.claims.claim(pgno)
    }

    fn finish(self, end: &Segment) -> Result<ChainProof, Finding> {
        if let Some(pgno) = self.claims.first_open() {
            return Err(Finding::MissingPage { pgno });
        }
        let found = self.sum.checksum();
        match self.end.proof {
            None => Ok(ChainProof::Files),
            Some(proof) if proof.after == found => Ok(ChainProof::Database),
            Some(proof) => Err(Finding::ChainChecksum { end: *end, expected: proof.after, found }),
        }
    }
}
