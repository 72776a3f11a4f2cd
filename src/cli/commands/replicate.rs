//! The command that everything is about.

use clap::Command;

use super::arguments::{command, config_flags, path, switch, text, value};

pub(super) fn replicate() -> Command {
    command("replicate", "runs a server to replicate databases")
        .long_about(
            "The replicate command starts a server to monitor & replicate databases.\n\
             You can specify your database & replicas in a configuration file or you can\n\
             replicate a single database file by specifying its path and its replicas in the\n\
             command line arguments.",
        )
        .args(config_flags())
        .arg(value(
            "exec",
            "CMD",
            "Executes a subcommand and exits when it exits. Its words are split as in a\n\
             shell, but no shell runs it. Overrides exec of the config file.",
            text(),
        ))
        .arg(switch(
            "exec-exit-code",
            "Exit with the code of the subcommand if that is not 0 (128 and the number of\n\
             the signal that killed it). Otherwise such an end is exit code 1.",
        ))
        .arg(switch(
            "once",
            "Replicate once and exit. This performs a single sync of all\n\
             databases and their replicas, then exits. Cannot be used with -exec.",
        ))
        .arg(switch(
            "force-snapshot",
            "Then make the newest point of every replica a snapshot. Requires -once.",
        ))
        .arg(switch(
            "enforce-retention",
            "Then delete what the retention settings no longer keep. Requires -once.",
        ))
        .arg(value(
            "log-level",
            "LEVEL",
            "Sets the log level. Overrides LOG_LEVEL and the config file.\nValid values: trace, debug, info, warn, error",
            text(),
        ))
        .arg(switch(
            "restore-if-db-not-exists",
            "Restores the database from the replica if it doesn't exist.\n\
             On first start with no backup, proceeds normally.",
        ))
        .arg(switch(
            "strict-start",
            "Fail at the start if a replica cannot be reached.\n\
             Otherwise replication starts and keeps trying.",
        ))
        .arg(value("socket", "PATH", "Serves the control socket at this path, whatever the config file says.", path()))
        .arg(value("trace", "PATH", "Ignored, for scripts written for v0.3.11 and before.", text()))
        .override_usage("[arguments]\n[arguments] DB_PATH REPLICA_URL [REPLICA_URL...]")
        .after_help(
            "$ PROGRAM replicate\n\
             $ PROGRAM replicate /path/to/db s3://mybkt/db\n\
             $ PROGRAM replicate -restore-if-db-not-exists -exec \"myapp -port 8080\"",
        )
}
