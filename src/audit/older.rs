//! Reading what Litestream 0.3 left: every snapshot, every slice, every frame.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::judge::per_month;
use super::read::{Objects, Place, read_all};
use super::{OlderSummary, Report, Scope, Sizes, list};
use crate::legacy::{
    Archive, Content, Damage, Error, Item, Keys, LogReader, Part, PlanError, Wish, check_snapshot, choose,
    explain_holes,
};
use crate::replica::Replica;
use crate::types::{Generation, PageSize};

/// Looks at all of it, or at the newest chain; `elsewhere` says that this is not
/// where the newest chain is.
pub(super) async fn inspect(
    replica: &Replica,
    scope: Scope,
    elsewhere: bool,
    report: &mut Report,
) -> Result<(), Error> {
    if elsewhere {
        return Ok(());
    }
    let archive = Archive::of(replica)?;
    let listing = archive.list().await?;
    if scope == Scope::All {
        let folder = replica.beside_levels("generations");
        let known: BTreeSet<_> = listing.items().iter().map(|item| archive.key(item)).collect();
        let objects = list(replica, &folder).await?;
        let foreign = objects.into_iter().map(|object| object.key).filter(|key| !known.contains(key));
        report.findings.extend(foreign.map(Finding::foreign));
    }
    if listing.is_empty() {
        return Ok(());
    }
    let (items, holes): (Vec<Item>, Vec<PlanError>) = match scope {
        Scope::All => (listing.items().to_vec(), explain_holes(&listing)),
        Scope::Chain => match choose(&listing, &Wish::default()) {
            Ok(plan) => (plan.items().copied().collect(), Vec::new()),
            Err(error) => (Vec::new(), vec![error]),
        },
    };
    let mut unsound: BTreeSet<Generation> = BTreeSet::new();
    for hole in holes {
        if let PlanError::MissingLog { generation, .. } | PlanError::NoSnapshot { generation } = hole {
            unsound.insert(generation);
        }
        report.findings.push(Finding::OlderHole { reason: hole.to_string() });
    }
    let places: Vec<Place> = items.iter().map(|item| Place { key: archive.key(item), size: item.size }).collect();
    let found = {
        let (items, places_again, keys) = (items.clone(), places.clone(), archive.keys().clone());
        read_all(replica, places, move |objects: &mut Objects| examine(objects, &items, &places_again, &keys)).await
    };
    for (generation, finding) in found {
        unsound.insert(generation);
        report.findings.push(finding);
    }
    let generations: BTreeSet<Generation> = items.iter().map(|item| item.generation).collect();
    let slices: Vec<i64> =
        items.iter().filter(|item| item.part != Part::Snapshot).map(|item| item.created.as_millis()).collect();
    let times = || items.iter().map(|item| item.created);
    report.older = Some(OlderSummary {
        sizes: Sizes {
            objects: items.len() as u64,
            bytes: items.iter().map(|item| item.size).sum(),
            uploads_per_month: per_month(&slices),
        },
        sound_generations: generations.difference(&unsound).count(),
        generations: generations.len(),
        range: times().min().zip(times().max()),
    });
    Ok(())
}

/// Reads everything, in the order of the listing: of each generation the
/// snapshots, then the logs.
fn examine(objects: &mut Objects, items: &[Item], places: &[Place], keys: &Keys) -> Vec<(Generation, Finding)> {
    let mut findings = Vec::new();
    let mut page_sizes: BTreeMap<Generation, PageSize> = BTreeMap::new();
    let mut log = LogReader::default();
    let mut current = None;
    // After damage the rest of a log cannot be checked; it is not blamed for that.
    let mut lost = false;
    for (item, place) in items.iter().zip(places) {
        let mut object = objects.next();
        let outcome = match item.part {
            Part::Snapshot => check_snapshot(&mut object, keys).map(|page_size| {
                page_sizes.insert(item.generation, page_size);
            }),
            Part::Log { offset } => {
                if current != Some((item.generation, item.index)) {
                    current = Some((item.generation, item.index));
                    log = LogReader::default();
                    // A log whose start is missing was reported by its name.
                    lost = offset != 0;
                }
                if !lost && offset != log.offset() {
                    lost = true;
                    let (key, expected) = (place.key.clone(), log.offset());
                    let reason = Error::MissingSlice { key, found: offset, expected }.to_string();
                    findings.push((item.generation, Finding::OlderHole { reason }));
                }
                match lost {
                    true => drain(&mut object, keys),
                    false => slice(&mut object, keys, &mut log, page_sizes.get(&item.generation).copied()),
                }
            }
        };
        if let Err(damage) = outcome {
            lost |= item.part != Part::Snapshot;
            let key = place.key.clone();
            let finding = match object.failure() {
                Some(failure) => Finding::Unreadable { key, reason: failure.to_string() },
                None => Finding::Damaged { key, reason: reason_of(&damage) },
            };
            findings.push((item.generation, finding));
        }
    }
    findings
}

fn slice(
    object: &mut impl std::io::Read,
    keys: &Keys,
    log: &mut LogReader,
    page_size: Option<PageSize>,
) -> Result<(), Damage> {
    let mut content = Content::new(object, keys)?;
    while log.next(&mut content)?.is_some() {}
    match (log.page_size(), page_size) {
        (Some(found), Some(expected)) if found != expected => Err(Damage::PageSize { found, expected }),
        _ => Ok(()),
    }
}

/// Unpacks it, which checks its own checksum.
fn drain(object: &mut impl std::io::Read, keys: &Keys) -> Result<(), Damage> {
    let mut content = Content::new(object, keys)?;
    let mut buffer = vec![0; 64 << 10];
    while content.fill(&mut buffer)? == buffer.len() {}
    Ok(())
}

fn reason_of(damage: &Damage) -> String {
    match std::error::Error::source(damage) {
        Some(cause) => format!("{damage}: {cause}"),
        None => damage.to_string(),
    }
}
