//! The commands that decide what of the history is kept.

use clap::Command;

use super::arguments::{DATABASE_OR_REPLICA, command, config_flags, json, one_replica, parser, switch, text, value};
use crate::cli::values;

pub(super) fn pin() -> Command {
    command("pin", "keep points of the history restorable")
        .long_about(
            "The pin command names a point of a replica's history that stays restorable until it\n\
             is released, whatever retention says. It lists and releases such points, too.",
        )
        .args(config_flags())
        .arg(one_replica("Optional, only on this replica."))
        .arg(value("name", "NAME", "Pins a point under this name.\nDefaults to the newest point.", parser(values::pin)))
        .arg(value("at", "TIMESTAMP", "The newest point captured at or before this time.", text()))
        .arg(value("txid", "TXID", "Exactly this transaction.", parser(values::txid)))
        .arg(switch("list", "Lists the pins."))
        .arg(value("release", "NAME", "Releases the pin of this name.", parser(values::pin)))
        .arg(json())
        .override_usage(DATABASE_OR_REPLICA)
        .after_help(
            "$ PROGRAM pin -name before-upgrade /path/to/db\n\
             $ PROGRAM pin -name audit -at 2026-01-01T00:00:00Z s3://mybkt/db\n\
             $ PROGRAM pin -release audit s3://mybkt/db",
        )
}

pub(super) fn prune() -> Command {
    command("prune", "delete what retention no longer keeps")
        .long_about(
            "The prune command deletes from replicas what their retention settings no longer keep,\n\
             as the daemon does by itself: for replicas whose daemon must not delete, and for\n\
             deletions that are too large to happen unasked.",
        )
        .args(config_flags())
        .arg(one_replica("Optional, only on this replica."))
        .arg(value(
            "retention",
            "DURATION",
            "How much history to keep, instead of snapshot.retention.\nRequired with a replica URL.",
            parser(values::duration),
        ))
        .arg(switch(
            "snapshot",
            "First make the newest point a snapshot, for replicas whose daemon must not\n\
             list and so makes none.",
        ))
        .arg(switch("dry-run", "Print what would be deleted and why, and delete nothing."))
        .arg(switch("confirm", "Delete even if that is more than half of the snapshots."))
        .override_usage("[arguments]\n[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help(
            "$ PROGRAM prune -dry-run\n$ PROGRAM prune /path/to/db\n$ PROGRAM prune -retention 720h s3://mybkt/db",
        )
}
