//! The commands that examine something and report. None of them changes a
//! database, or what a replica holds of it.

use clap::{Arg, Command};

use super::arguments::{
    DATABASE_OR_REPLICA, command, config_flags, json, one_replica, parser, path, switch, text, value,
};
use crate::cli::values;

pub(super) fn audit() -> Command {
    command("audit", "read everything on the replicas and report what is wrong")
        .long_about(
            "The audit command reads every object of the replicas, of any Litestream, to its last\n\
             byte, and reports what is damaged, missing or out of place, what can be restored, and\n\
             what it costs. It changes nothing. The exit code is 1 if there are problems.",
        )
        .args(config_flags())
        .args(audit_flags())
        .override_usage(DATABASE_OR_REPLICA)
        .after_help("$ PROGRAM audit /path/to/db\n$ PROGRAM audit -json s3://mybkt/db")
}

pub(super) fn verify() -> Command {
    command("verify", "prove that the newest data on the replicas can be restored")
        .long_about(
            "The verify command reads what a restore of the newest data needs, checks every\n\
             checksum and that the pages add up to the database that was captured, and writes\n\
             nothing. The exit code is 1 if there are problems.",
        )
        .args(config_flags())
        .args(audit_flags())
        .override_usage(DATABASE_OR_REPLICA)
        .after_help("$ PROGRAM verify /path/to/db\n$ PROGRAM verify -json s3://mybkt/db")
}

fn audit_flags() -> [Arg; 2] {
    [one_replica("Optional, filters by replica."), json()]
}

pub(super) fn check() -> Command {
    command("check", "tell a monitoring system how the databases are")
        .long_about(
            "The check command asks the running daemon how the databases are and answers in the\n\
             form of Nagios plugins: one line with performance data, more lines with details, and\n\
             the exit code 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN). If no daemon answers,\n\
             that is a WARNING at least, and the files are compared with the replicas.",
        )
        .args(config_flags())
        .arg(value("addr", "HOST:PORT", "Where the daemon answers. Defaults to the config's.", text()))
        .arg(value("token-file", "PATH", "File with the token to show. Defaults to the config's.", path()))
        .arg(value("warning", "DURATION", "A longer lag is a WARNING.", parser(values::duration)))
        .arg(value("critical", "DURATION", "A longer lag is CRITICAL.", parser(values::duration)))
        .arg(value("timeout", "DURATION", "How long to wait for answers.\nDefaults to 10s.", parser(values::duration)))
        .override_usage("[arguments]\n[arguments] DB_PATH")
        .after_help("$ PROGRAM check\n$ PROGRAM check -warning 1m -critical 10m /path/to/db")
}

pub(super) fn doctor() -> Command {
    command("doctor", "checks that replicas can be written, read and cleaned up")
        .long_about(
            "The doctor command tries out the storages of replicas: whether objects can be\n\
             listed, created, read and removed, whether a name can be taken only once, and\n\
             whether the clocks agree. It writes a few small objects beside the replica and\n\
             removes them again. Exits with 1 if something that is needed does not work.",
        )
        .args(config_flags())
        .arg(one_replica("Optional, examines a specific replica."))
        .arg(switch("deep", "Also send an object of 6 MiB in several parts (S3)."))
        .arg(json())
        .override_usage("[arguments]\n[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM doctor\n$ PROGRAM doctor /path/to/db\n$ PROGRAM doctor -deep s3://mybkt/db")
}

pub(super) fn drill() -> Command {
    command("drill", "rehearse a restore of the newest data")
        .long_about(
            "The drill command rehearses a restore from each replica and prints what was proven and\n\
             how long it took. What it writes is removed. The exit code is 1 if one fails.",
        )
        .args(config_flags())
        .arg(one_replica("Optional, filters by replica."))
        .arg(value(
            "mode",
            "MODE",
            "stream: read and add up everything a restore needs.\n\
             full: restore into a file, and ask SQLite and the SQL of the config.\n\
             Defaults to what the config says, else to stream.",
            text(),
        ))
        .arg(value(
            "scratch",
            "PATH",
            "Directory for the restored database.\nDefaults to the system's for temporary files.",
            path(),
        ))
        .arg(json())
        .override_usage(DATABASE_OR_REPLICA)
        .after_help("$ PROGRAM drill /path/to/db\n$ PROGRAM drill -mode full s3://mybkt/db")
}
