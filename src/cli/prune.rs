//! `prune`: delete by hand what policy no longer keeps.
//!
//! For replicas whose daemon may not delete, or not even list, with credentials
//! that may, and for what the daemon does not delete unasked. Nothing is deleted from a replica
//! where the command says so; the exit code tells whether all was as asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

use super::error::CliError;
use super::open;
use super::render;
use super::{Context, PruneOptions, Source};
use crate::config::{Database, ReplicaSettings};
use crate::replica::Replica;
use crate::upkeep::{self, Pruned, Retention};

/// Prunes one replica, all of a database, or all there are.
pub(crate) fn run(options: &PruneOptions, context: &Context) -> Result<(), CliError> {
    let chosen = chosen(options, context)?;
    let runtime = super::runtime()?;
    let mut refused = Vec::new();
    for (label, settings) in &chosen {
        let retention = retention(settings, options.retention);
        let how = upkeep::PruneOptions { retention, dry_run: options.dry_run, confirm: options.confirm };
        let replica = Arc::new(open::replica(settings)?);
        if options.snapshot {
            let made = runtime.block_on(upkeep::snapshot(&replica, open::encoding(settings)));
            let made = made.map_err(|error| CliError::failed(Of { label: label.clone(), error }))?;
            render::print(&format!("{label}: {} is a snapshot\n", replica.key(made.level, made.txids)))?;
        }
        let pruned = runtime.block_on(upkeep::prune(&replica, SystemTime::now().into(), &how));
        let pruned = pruned.map_err(|error| CliError::failed(Of { label: label.clone(), error }))?;
        render::print(&told(label, &replica, &pruned, options.dry_run))?;
        if pruned.refused {
            refused.push(label.clone());
        }
    }
    match refused.as_slice() {
        [] => Ok(()),
        labels => Err(CliError::failed(format!(
            "more than half of the snapshots of {} would go: nothing was deleted there; \
             look with -dry-run, then use -confirm",
            labels.join(", ")
        ))),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot prune {label}")]
struct Of {
    label: String,
    #[source]
    error: upkeep::Error,
}

/// The replicas, each with the words it is spoken of.
fn chosen(options: &PruneOptions, context: &Context) -> Result<Vec<(String, ReplicaSettings)>, CliError> {
    let named = |database: &Database| {
        let path = database.path.display().to_string();
        let of = |replica: &ReplicaSettings| (format!("{path} on {}", replica.name), replica.clone());
        database.replicas.iter().map(of).collect::<Vec<_>>()
    };
    let all = match &options.source {
        None => {
            let config = context.config(&options.config)?;
            context.start_log_beside_listing(&config.warnings)?;
            super::directories::databases(&config)?.iter().flat_map(named).collect()
        }
        Some(source) => {
            let subject = context.subject(source, &options.config)?;
            context.start_log_beside_listing(&subject.warnings)?;
            match (source, &subject.database) {
                (Source::Url(url), _) => subject.replicas.iter().map(|r| (url.clone(), r.clone())).collect(),
                (Source::Database(_), Some(database)) => named(database),
                (Source::Database(_), None) => Vec::new(),
            }
        }
    };
    let wanted = |(_, replica): &(String, ReplicaSettings)| match &options.replica {
        Some(name) => replica.name == *name,
        None => true,
    };
    let chosen: Vec<_> = all.into_iter().filter(wanted).collect();
    match (&options.replica, chosen.is_empty()) {
        (Some(name), true) => Err(CliError::usage(format!("there is no replica {name:?}"))),
        _ => Ok(chosen),
    }
}

/// What the config says, whether or not the daemon is to enforce it.
fn retention(settings: &ReplicaSettings, history: Option<Duration>) -> Retention {
    let of_config = open::retention(settings);
    Retention { history: history.unwrap_or(of_config.history), ..of_config }
}

fn told(label: &str, replica: &Replica, pruned: &Pruned, dry_run: bool) -> String {
    let mut text = String::new();
    if dry_run {
        for (segment, rule) in &pruned.deletions {
            text.push_str(&format!("{}  {rule}\n", replica.key(segment.level, segment.txids)));
        }
    }
    let (bytes, of) = pruned.bytes;
    let done = match (dry_run, pruned.refused) {
        (true, _) => "would delete",
        (false, true) => "did not delete",
        (false, false) => "deleted",
    };
    let (snapshots, of_snapshots) = pruned.snapshots;
    text.push_str(&format!(
        "{label}: {done} {} segments, {} of {}; {snapshots} of {of_snapshots} snapshots\n",
        pruned.deletions.len(),
        ByteSize::b(bytes).display().iec(),
        ByteSize::b(of).display().iec(),
    ));
    text
}
