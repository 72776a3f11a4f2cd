//! `snapshots` and `wal`: the listings that scripts written for Litestream 0.3
//! expect, for its own backups and, as far as there is something alike, for
//! segments. As there, a replica that cannot be read is logged and left out.

use super::error::CliError;
use super::listing;
use super::open;
use super::render::{self, Table, seconds};
use super::{Context, GenerationsOptions, WalOptions};
use crate::legacy::{Archive, Listing, Part};
use crate::ltx::Level;
use crate::replica::{self, Replica, Segment};
use crate::types::Generation;

/// Lists what holds a whole database.
pub(crate) fn snapshots(options: &GenerationsOptions, context: &Context) -> Result<(), CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    let replicas = open::replicas(&subject, options.replica.as_deref(), &options.source)?;
    let runtime = super::runtime()?;
    let mut table = Table::new(["replica", "generation", "index", "size", "created"]);
    for replica in &replicas {
        let mut row = |generation: String, index: u64, size: u64, created| {
            table.row([replica.name().to_owned(), generation, index.to_string(), size.to_string(), seconds(created)]);
        };
        for item in runtime.block_on(listing(replica)).snapshots() {
            row(item.generation.to_string(), item.index.into(), item.size, item.created);
        }
        match runtime.block_on(whole_segments(replica)) {
            Ok(segments) => {
                for (segment, generation) in segments {
                    let name = generation.map_or_else(|| listing::foreign_name(None), |name| name.to_string());
                    row(name, segment.txids.max().get(), segment.size, segment.created);
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(replica = replica.name(), error, "cannot fetch snapshots");
            }
        }
    }
    render::print(&table.text())
}

/// The snapshots among the segments, and who wrote each.
async fn whole_segments(replica: &Replica) -> Result<Vec<(Segment, Option<Generation>)>, replica::Error> {
    let mut found = Vec::new();
    for segment in replica.list(Level::SNAPSHOT).await? {
        found.push((segment, replica.read_header(&segment).await?.generation));
    }
    Ok(found)
}

/// What Litestream 0.3 left beside the replica; nothing if that cannot be read.
pub(super) async fn listing(replica: &Replica) -> Listing {
    let listing = match Archive::of(replica) {
        Ok(archive) => archive.list().await,
        Err(error) => Err(error),
    };
    listing.unwrap_or_else(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::error!(replica = replica.name(), error, "cannot list the Litestream 0.3 backup");
        Listing::default()
    })
}

/// Lists the slices of logs, or segments if there are none.
pub(crate) fn wal(options: &WalOptions, context: &Context) -> Result<(), CliError> {
    let WalOptions { ltx, generation, as_ltx } = options;
    let subject = context.subject(&ltx.source, &ltx.config)?;
    let mut table = Table::new(["replica", "generation", "index", "offset", "size", "created"]);
    let mut is_old = generation.is_some();
    context.start_log_beside_listing(&subject.warnings)?;
    if !as_ltx || is_old {
        let runtime = super::runtime()?;
        for settings in subject.named(ltx.replica.as_deref()) {
            let replica = open::replica(settings)?;
            let listing = runtime.block_on(listing(&replica));
            let newest = runtime.block_on(replica.list(Level::L0)).ok();
            let newest = newest.and_then(|segments| segments.iter().map(|segment| segment.created).max());
            is_old |= listing.newest() > newest;
            for item in listing.slices().filter(|item| generation.is_none_or(|wanted| wanted == item.generation)) {
                let Part::Log { offset } = item.part else { continue };
                let (name, index) = (replica.name().to_owned(), item.index.to_string());
                let (offset, size) = (offset.to_string(), item.size.to_string());
                table.row([name, item.generation.to_string(), index, offset, size, seconds(item.created)]);
            }
        }
    }
    if is_old {
        return render::print(&table.text());
    }
    let program = &context.program;
    render::complain(&format!("Warning: '{program} wal' is deprecated, please use 'ltx' instead"));
    listing::segments(ltx, &subject)
}
