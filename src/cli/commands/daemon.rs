//! The commands that ask the running daemon.
//!
//! Always true: each takes `-config`, `-socket`, `-timeout` and `-json`.

use clap::Command;

use super::arguments::{command, parser, socket_flags, switch, text, value};
use crate::cli::values;

pub(super) fn list() -> Command {
    command("list", "list the databases of the running daemon")
        .long_about("The list command lists the databases that the running daemon takes care of.")
        .args(socket_flags(10))
        .override_usage("[arguments]")
        .after_help("$ PROGRAM list\n$ PROGRAM list -json -socket /tmp/litestream.sock")
}

pub(super) fn register() -> Command {
    command("register", "add a database to the running daemon")
        .long_about(
            "The register command has the running daemon replicate another database, with the\n\
             settings it would have in the daemon's config file. A restart forgets it.",
        )
        .args(socket_flags(30))
        .arg(value("replica", "URL", "Where the database goes.\nRequired.", text()))
        .override_usage("[arguments] -replica URL DB_PATH")
        .after_help("$ PROGRAM register -replica s3://mybkt/db /path/to/db")
}

pub(super) fn reload() -> Command {
    command("reload", "have the running daemon read its config file again")
        .long_about(
            "The reload command has the running daemon read its config file again and apply what\n\
             is different: databases that were added, removed or changed. A config with a mistake\n\
             changes nothing, and the command says what is wrong.",
        )
        .args(socket_flags(30))
        .override_usage("[arguments]")
        .after_help("$ PROGRAM reload")
}

pub(super) fn start() -> Command {
    command("start", "resume replication of a database in the running daemon")
        .long_about("The start command has the running daemon follow a database again after a stop.")
        .args(socket_flags(30))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM start /path/to/db")
}

pub(super) fn status() -> Command {
    command("status", "show how the databases and their replicas are")
        .long_about(
            "The status command asks the running daemon how each database and each of its\n\
             replicas is, and why not better: what is seen, captured and confirmed, how late that\n\
             is, and what can be restored. Without a daemon it tells what the files on this\n\
             machine and the replicas show.",
        )
        .args(socket_flags(10))
        .override_usage("[arguments]\n[arguments] DB_PATH")
        .after_help("$ PROGRAM status\n$ PROGRAM status /path/to/db\n$ PROGRAM status -json")
}

pub(super) fn stop() -> Command {
    command("stop", "pause replication of a database in the running daemon")
        .long_about(
            "The stop command has the running daemon let go of a database until it is started\n\
             again. What is committed is captured and uploaded first.",
        )
        .args(socket_flags(30))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM stop /path/to/db\n$ PROGRAM stop -timeout 10 /path/to/db")
}

pub(super) fn sync() -> Command {
    command("sync", "force a sync of a database in the running daemon")
        .long_about(
            "The sync command has the running daemon capture what is committed to a database now.\n\
             With -wait it is also uploaded at once, and the command ends when every replica has it.",
        )
        .args(socket_flags(30))
        .arg(switch("wait", "Upload at once, and wait until every replica has it."))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM sync /path/to/db\n$ PROGRAM sync -wait -timeout 120 /path/to/db")
}

pub(super) fn unregister() -> Command {
    command("unregister", "remove a database from the running daemon")
        .long_about(
            "The unregister command has the running daemon let go of a database for good. What is\n\
             committed is captured and uploaded first. A restart takes up again what is in the\n\
             daemon's config file.",
        )
        .args(socket_flags(30))
        .arg(switch("dry-run", "Print what would be asked of the daemon, and ask nothing."))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM unregister /path/to/db\n$ PROGRAM unregister -dry-run /path/to/db")
}

pub(super) fn wait() -> Command {
    command("wait", "wait until every replica has what is committed")
        .long_about(
            "The wait command ends when every replica has what is committed to a database now, or\n\
             a transaction that the sync command has told. Nothing is uploaded any sooner for it:\n\
             it costs the replicas no request, however often it is used.",
        )
        .args(socket_flags(30))
        .arg(value(
            "txid",
            "TXID",
            "The transaction, decimal as the sync command tells it, or 16 hex digits.\n\
             Defaults to what is committed now.",
            parser(values::socket_txid),
        ))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM wait /path/to/db\n$ PROGRAM wait /path/to/db -txid 42 -timeout 10s")
}
