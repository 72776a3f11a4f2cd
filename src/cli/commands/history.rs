//! The commands that tell about the history on the replicas of a database. They only read.

use clap::{Arg, Command};

use super::arguments::{
    DATABASE_OR_REPLICA, command, config_flags, json, one_replica, parser, socket_flags, text, value,
};
use crate::cli::values;

pub(super) fn generations() -> Command {
    command("generations", "list generations of a database or replica")
        .long_about(
            "The generations command lists all generations for a database or replica,\n\
             with their lag behind the database and the time range they cover.",
        )
        .args(config_flags())
        .arg(one_replica("Optional, filters by replica."))
        .override_usage(DATABASE_OR_REPLICA)
        .after_help("$ PROGRAM generations /path/to/db\n$ PROGRAM generations -replica s3 /path/to/db")
}

pub(super) fn info() -> Command {
    command("info", "show what can be restored, or ask the running daemon about itself")
        .long_about(
            "Without an argument, the info command asks the running daemon about itself.\n\n\
             With a database or a replica it shows what the replicas of a database can give back: generations,\n\
             restorable ranges and how dense they are, sizes, and how long a restore would take.",
        )
        .args(socket_flags(10))
        .arg(one_replica("Optional, filters by replica."))
        .arg(value(
            "parallelism",
            "NUM",
            "Requests at a time that the estimate of the restore time reckons with.\nDefaults to 8, at most 64",
            parser(values::parallelism),
        ))
        .override_usage("[arguments]\n[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM info\n$ PROGRAM info /path/to/db\n$ PROGRAM info -json s3://mybkt/db")
}

pub(super) fn ltx() -> Command {
    command("ltx", "list available LTX files for a database")
        .long_about("The ltx command lists all LTX files available for a database.")
        .args(config_flags())
        .args(ltx_flags())
        .override_usage(DATABASE_OR_REPLICA)
        .after_help(
            "$ PROGRAM ltx /path/to/db\n$ PROGRAM ltx -level 9 s3://mybkt/db\n$ PROGRAM ltx -level all /path/to/db",
        )
}

pub(super) fn snapshots() -> Command {
    command("snapshots", "list snapshots of a database or replica")
        .long_about(
            "The snapshots command lists all snapshots available for a database or replica.\n\
             For those in the format of Litestream 0.3 the index is the number of the log they\n\
             were taken in; for all others it is the last transaction they hold. Both are decimal.",
        )
        .args(config_flags())
        .arg(one_replica("Optional, filters by replica."))
        .override_usage(DATABASE_OR_REPLICA)
        .after_help("$ PROGRAM snapshots /path/to/db\n$ PROGRAM snapshots s3://mybkt/db")
}

pub(super) fn wal() -> Command {
    command("wal", "list the WAL files of a Litestream 0.3 backup")
        .long_about(
            "The wal command lists the WAL files of a backup that Litestream 0.3 wrote.\n\
             For all others it is deprecated and does what the ltx command does.",
        )
        .args(config_flags())
        .arg(value("generation", "NAME", "Optional, lists only this generation of a\nLitestream 0.3 backup.", text()))
        .args(ltx_flags())
        .override_usage(DATABASE_OR_REPLICA)
        .after_help("$ PROGRAM wal /path/to/db\n$ PROGRAM wal -generation 0123456789abcdef s3://mybkt/db")
}

fn ltx_flags() -> [Arg; 3] {
    [
        one_replica("Optional, lists a specific replica.\nDefaults to the first one."),
        value("level", "LEVEL", "Compaction level to list (0-9 or \"all\").\nDefaults to 0.", parser(values::levels)),
        json(),
    ]
}
