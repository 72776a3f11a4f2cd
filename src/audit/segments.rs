//! Reading the segments: each to its end, and those of the newest chain from
//! the newest to the oldest, so that the pages of the newest database add up.

use super::finding::Finding;
use super::judge::{Chain, Examined, Sound, judge};
use super::read::{Object, Objects, Place, read_all};
use super::{ChainProof, Report, Scope, holdings, newest_chain};
use crate::ltx::{Decoder, Error, Header};
use crate::replica::{Replica, Segment};
use crate::restore::{Claims, PlanError};
use crate::types::{Pgno, RollingChecksum, Timestamp, page_checksum};

/// Looks at all segments, or at those of the newest chain.
pub(super) async fn inspect(
    replica: &Replica,
    segments: &[Segment],
    scope: Scope,
    now: Timestamp,
    report: &mut Report,
) {
    let (chain, error) = newest_chain(&holdings(replica, segments).await);
    report.findings.extend(error.and_then(|error| match error {
        PlanError::NoBase { first } => Some(Finding::NoBase { first }),
        PlanError::Gap { reached, next } => Some(Finding::Gap { reached, next }),
        _ => None,
    }));
    let mut order: Vec<Segment> = chain.iter().flat_map(|chain| chain.segments().iter().rev().copied()).collect();
    let in_chain = order.len();
    if scope == Scope::All {
        order.extend(
            segments.iter().filter(|segment| !order[..in_chain].contains(segment)).copied().collect::<Vec<_>>(),
        );
    }
    let place = |segment: &Segment| Place { key: replica.key(segment.level, segment.txids), size: segment.size };
    let places: Vec<Place> = order.iter().map(place).collect();
    let (examined, proof) = {
        let order = order.clone();
        let places_again = places.clone();
        read_all(replica, places, move |objects| examine(objects, &order, &places_again, in_chain)).await
    };
    // A note about stored times makes sense only where the storage keeps them.
    let keeps_times = replica.kind() == "file";
    judge(Chain { examined, in_chain, proof, keeps_times, scope, now }, report);
}

/// Decodes every object. The first `in_chain` of them are the newest chain,
/// newest first.
fn examine(
    objects: &mut Objects,
    order: &[Segment],
    places: &[Place],
    in_chain: usize,
) -> (Vec<Examined>, Result<ChainProof, Finding>) {
    let mut walk: Option<Walk> = None;
    let mut broken = in_chain == 0;
    let mut examined = Vec::with_capacity(order.len());
    for (at, (segment, place)) in order.iter().zip(places).enumerate() {
        let mut object = objects.next();
        let chain = (at < in_chain && !broken).then_some(&mut walk);
        let outcome = decode(&mut object, chain);
        let outcome = outcome.map_err(|error| match object.failure() {
            Some(failure) => Finding::Unreadable { key: place.key.clone(), reason: failure.to_string() },
            None => Finding::Damaged { key: place.key.clone(), reason: chain_of(&error) },
        });
        let outcome = outcome.and_then(|sound| match sound.header.txids == segment.txids {
            true => Ok(sound),
            false => Err(Finding::Misnamed { key: place.key.clone(), header: sound.header.txids }),
        });
        broken |= at < in_chain && outcome.is_err();
        examined.push(Examined { segment: *segment, key: place.key.clone(), outcome });
    }
    let proof = match (broken, walk, order.first()) {
        (false, Some(walk), Some(end)) => walk.finish(end),
        _ => Ok(ChainProof::None),
    };
    (examined, proof)
}

fn chain_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
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
