//! The commands: their flags, the types of their values, their help.
//!
//! clap holds the definitions and checks the values; the words reach it in the
//! one canonical form that `flags` makes of them, so none of
//! clap's own grammar (short flags, abbreviations, `-h`) is ever in play.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{TypedValueParser, ValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::flags::{self, FlagError, Kind};
use super::quote::quote;
use super::values;

/// Every command, in the order of the help text.
pub(crate) fn all() -> Vec<Command> {
    vec![
        audit(),
        check(),
        completion(),
        databases(),
        doctor(),
        drill(),
        generations(),
        info(),
        list(),
        ltx(),
        man(),
        pin(),
        prune(),
        register(),
        reload(),
        replicate(),
        reset(),
        restore(),
        snapshots(),
        start(),
        status(),
        stop(),
        sync(),
        unregister(),
        verify(),
        version(),
        wait(),
    ]
}

/// The command of that name. `wal` is not in the overview: `ltx` has taken its place.
pub(crate) fn find(name: &str) -> Option<Command> {
    all().into_iter().chain([wal()]).find(|command| command.get_name() == name)
}

fn audit() -> Command {
    command("audit", "read everything on the replicas and report what is wrong")
        .long_about(
            "The audit command reads every object of the replicas, of any Litestream, to its last\n\
             byte, and reports what is damaged, missing or out of place, what can be restored, and\n\
             what it costs. It changes nothing. The exit code is 1 if there are problems.",
        )
        .args(config_flags())
        .args(audit_flags())
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM audit /path/to/db\n$ PROGRAM audit -json s3://mybkt/db")
}

fn verify() -> Command {
    command("verify", "prove that the newest data on the replicas can be restored")
        .long_about(
            "The verify command reads what a restore of the newest data needs, checks every\n\
             checksum and that the pages add up to the database that was captured, and writes\n\
             nothing. The exit code is 1 if there are problems.",
        )
        .args(config_flags())
        .args(audit_flags())
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM verify /path/to/db\n$ PROGRAM verify -json s3://mybkt/db")
}

fn audit_flags() -> [Arg; 2] {
    [
        value("replica", "NAME", "Optional, filters by replica.", ValueParser::string()),
        switch("json", "Output raw JSON instead of human-readable text."),
    ]
}

fn completion() -> Command {
    command("completion", "print a script that completes command lines")
        .long_about(
            "The completion command prints a script that teaches a shell to complete the\n\
             commands and flags of the program: bash, zsh or fish.",
        )
        .override_usage("[arguments] SHELL")
        .after_help(
            "$ PROGRAM completion bash > /usr/share/bash-completion/completions/PROGRAM\n\
             $ PROGRAM completion zsh > /usr/share/zsh/site-functions/_PROGRAM\n\
             $ PROGRAM completion fish > /usr/share/fish/vendor_completions.d/PROGRAM.fish",
        )
}

fn man() -> Command {
    command("man", "print the manual page")
        .long_about("The man command prints the manual page, as the man program reads it.")
        .override_usage("[arguments]")
        .after_help("$ PROGRAM man > /usr/share/man/man1/PROGRAM.1\n$ PROGRAM man | man -l -")
}

fn check() -> Command {
    command("check", "tell a monitoring system how the databases are")
        .long_about(
            "The check command asks the running daemon how the databases are and answers in the\n\
             form of Nagios plugins: one line with performance data, more lines with details, and\n\
             the exit code 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN). If no daemon answers,\n\
             that is a WARNING at least, and the files are compared with the replicas.",
        )
        .args(config_flags())
        .arg(value("addr", "HOST:PORT", "Where the daemon answers. Defaults to the config's.", ValueParser::string()))
        .arg(value("token-file", "PATH", "File with the token to show. Defaults to the config's.", path()))
        .arg(value("warning", "DURATION", "A longer lag is a WARNING.", parser(values::duration)))
        .arg(value("critical", "DURATION", "A longer lag is CRITICAL.", parser(values::duration)))
        .arg(value("timeout", "DURATION", "How long to wait for answers.\nDefaults to 10s.", parser(values::duration)))
        .override_usage("[arguments]\n[arguments] DB_PATH")
        .after_help("$ PROGRAM check\n$ PROGRAM check -warning 1m -critical 10m /path/to/db")
}

fn databases() -> Command {
    command("databases", "list databases specified in config file")
        .long_about("The databases command lists all databases in the configuration file.")
        .args(config_flags())
        .arg(switch("json", "Output raw JSON instead of human-readable text."))
        .override_usage("[arguments]")
        .after_help("$ PROGRAM databases\n$ PROGRAM databases -config /path/to/litestream.yml")
}

fn doctor() -> Command {
    command("doctor", "checks that replicas can be written, read and cleaned up")
        .long_about(
            "The doctor command tries out the storages of replicas: whether objects can be\n\
             listed, created, read and removed, whether a name can be taken only once, and\n\
             whether the clocks agree. It writes a few small objects beside the replica and\n\
             removes them again. Exits with 1 if something that is needed does not work.",
        )
        .args(config_flags())
        .arg(value("replica", "NAME", "Optional, examines a specific replica.", ValueParser::string()))
        .arg(switch("deep", "Also send an object of 6 MiB in several parts (S3)."))
        .arg(switch("json", "Output raw JSON instead of human-readable text."))
        .override_usage("[arguments]\n[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM doctor\n$ PROGRAM doctor /path/to/db\n$ PROGRAM doctor -deep s3://mybkt/db")
}

fn drill() -> Command {
    command("drill", "rehearse a restore of the newest data")
        .long_about(
            "The drill command rehearses a restore from each replica and prints what was proven and\n\
             how long it took. What it writes is removed. The exit code is 1 if one fails.",
        )
        .args(config_flags())
        .arg(value("replica", "NAME", "Optional, filters by replica.", ValueParser::string()))
        .arg(value(
            "mode",
            "MODE",
            "stream: read and add up everything a restore needs.\n\
             full: restore into a file, and ask SQLite and the SQL of the config.\n\
             Defaults to what the config says, else to stream.",
            ValueParser::string(),
        ))
        .arg(value(
            "scratch",
            "PATH",
            "Directory for the restored database.\nDefaults to the system's for temporary files.",
            path(),
        ))
        .arg(switch("json", "Output raw JSON instead of human-readable text."))
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM drill /path/to/db\n$ PROGRAM drill -mode full s3://mybkt/db")
}

fn generations() -> Command {
    command("generations", "list generations of a database or replica")
        .long_about(
            "The generations command lists all generations for a database or replica,\n\
             with their lag behind the database and the time range they cover.",
        )
        .args(config_flags())
        .arg(value("replica", "NAME", "Optional, filters by replica.", ValueParser::string()))
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM generations /path/to/db\n$ PROGRAM generations -replica s3 /path/to/db")
}

fn info() -> Command {
    command("info", "show what can be restored, or ask the running daemon about itself")
        .long_about(
            "Without an argument, the info command asks the running daemon about itself.\n\n\
             With a database or a replica it shows what the replicas of a database can give back: generations,\n\
             restorable ranges and how dense they are, sizes, and how long a restore would take.",
        )
        .args(socket_flags(10))
        .arg(value("replica", "NAME", "Optional, filters by replica.", ValueParser::string()))
        .arg(value(
            "parallelism",
            "NUM",
            "Requests at a time that the estimate of the restore time reckons with.\nDefaults to 8, at most 64",
            parser(values::parallelism),
        ))
        .override_usage("[arguments]\n[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM info\n$ PROGRAM info /path/to/db\n$ PROGRAM info -json s3://mybkt/db")
}

fn list() -> Command {
    command("list", "list the databases of the running daemon")
        .long_about("The list command lists the databases that the running daemon takes care of.")
        .args(socket_flags(10))
        .override_usage("[arguments]")
        .after_help("$ PROGRAM list\n$ PROGRAM list -json -socket /tmp/litestream.sock")
}

fn ltx() -> Command {
    command("ltx", "list available LTX files for a database")
        .long_about("The ltx command lists all LTX files available for a database.")
        .args(config_flags())
        .args(ltx_flags())
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help(
            "$ PROGRAM ltx /path/to/db\n$ PROGRAM ltx -level 9 s3://mybkt/db\n$ PROGRAM ltx -level all /path/to/db",
        )
}

fn pin() -> Command {
    command("pin", "keep points of the history restorable")
        .long_about(
            "The pin command names a point of a replica's history that stays restorable until it\n\
             is released, whatever retention says. It lists and releases such points, too.",
        )
        .args(config_flags())
        .arg(value("replica", "NAME", "Optional, only on this replica.", ValueParser::string()))
        .arg(value("name", "NAME", "Pins a point under this name.\nDefaults to the newest point.", parser(values::pin)))
        .arg(value("at", "TIMESTAMP", "The newest point captured at or before this time.", ValueParser::string()))
        .arg(value("txid", "TXID", "Exactly this transaction.", parser(values::txid)))
        .arg(switch("list", "Lists the pins."))
        .arg(value("release", "NAME", "Releases the pin of this name.", parser(values::pin)))
        .arg(switch("json", "Output raw JSON instead of human-readable text."))
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help(
            "$ PROGRAM pin -name before-upgrade /path/to/db\n\
             $ PROGRAM pin -name audit -at 2026-01-01T00:00:00Z s3://mybkt/db\n\
             $ PROGRAM pin -release audit s3://mybkt/db",
        )
}

fn prune() -> Command {
    command("prune", "delete what retention no longer keeps")
        .long_about(
            "The prune command deletes from replicas what their retention settings no longer keep,\n\
             as the daemon does by itself: for replicas whose daemon must not delete, and for\n\
             deletions that are too large to happen unasked.",
        )
        .args(config_flags())
        .arg(value("replica", "NAME", "Optional, only on this replica.", ValueParser::string()))
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

fn ltx_flags() -> [Arg; 3] {
    [
        value(
            "replica",
            "NAME",
            "Optional, lists a specific replica.\nDefaults to the first one.",
            ValueParser::string(),
        ),
        value("level", "LEVEL", "Compaction level to list (0-9 or \"all\").\nDefaults to 0.", parser(values::levels)),
        switch("json", "Output raw JSON instead of human-readable text."),
    ]
}

fn snapshots() -> Command {
    command("snapshots", "list snapshots of a database or replica")
        .long_about(
            "The snapshots command lists all snapshots available for a database or replica.\n\
             For those in the format of Litestream 0.3 the index is the number of the log they\n\
             were taken in; for all others it is the last transaction they hold. Both are decimal.",
        )
        .args(config_flags())
        .arg(value("replica", "NAME", "Optional, filters by replica.", ValueParser::string()))
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM snapshots /path/to/db\n$ PROGRAM snapshots s3://mybkt/db")
}

fn wal() -> Command {
    command("wal", "list the WAL files of a Litestream 0.3 backup")
        .long_about(
            "The wal command lists the WAL files of a backup that Litestream 0.3 wrote.\n\
             For all others it is deprecated and does what the ltx command does.",
        )
        .args(config_flags())
        .arg(value(
            "generation",
            "NAME",
            "Optional, lists only this generation of a\nLitestream 0.3 backup.",
            ValueParser::string(),
        ))
        .args(ltx_flags())
        .override_usage("[arguments] DB_PATH\n[arguments] REPLICA_URL")
        .after_help("$ PROGRAM wal /path/to/db\n$ PROGRAM wal -generation 0123456789abcdef s3://mybkt/db")
}

fn replicate() -> Command {
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
            ValueParser::string(),
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
            ValueParser::string(),
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
        .arg(value("trace", "PATH", "Ignored, for scripts written for v0.3.11 and before.", ValueParser::string()))
        .override_usage("[arguments]\n[arguments] DB_PATH REPLICA_URL [REPLICA_URL...]")
        .after_help(
            "$ PROGRAM replicate\n\
             $ PROGRAM replicate /path/to/db s3://mybkt/db\n\
             $ PROGRAM replicate -restore-if-db-not-exists -exec \"myapp -port 8080\"",
        )
}

fn register() -> Command {
    command("register", "add a database to the running daemon")
        .long_about(
            "The register command has the running daemon replicate another database, with the\n\
             settings it would have in the daemon's config file. A restart forgets it.",
        )
        .args(socket_flags(30))
        .arg(value("replica", "URL", "Where the database goes.\nRequired.", ValueParser::string()))
        .override_usage("[arguments] -replica URL DB_PATH")
        .after_help("$ PROGRAM register -replica s3://mybkt/db /path/to/db")
}

fn reload() -> Command {
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

fn reset() -> Command {
    command("reset", "delete the local state of a database")
        .long_about(
            "The reset command deletes what this machine remembers about a database, never the\n\
             database itself nor anything on a replica. Replication then begins a new generation\n\
             with a fresh copy of the database. The daemon must not be following it: stop it first.",
        )
        .args(config_flags())
        .arg(switch("dry-run", "Print what would be deleted, and delete nothing."))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM reset /path/to/db\n$ PROGRAM reset -dry-run /path/to/db")
}

fn start() -> Command {
    command("start", "resume replication of a database in the running daemon")
        .long_about("The start command has the running daemon follow a database again after a stop.")
        .args(socket_flags(30))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM start /path/to/db")
}

fn status() -> Command {
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

fn stop() -> Command {
    command("stop", "pause replication of a database in the running daemon")
        .long_about(
            "The stop command has the running daemon let go of a database until it is started\n\
             again. What is committed is captured and uploaded first.",
        )
        .args(socket_flags(30))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM stop /path/to/db\n$ PROGRAM stop -timeout 10 /path/to/db")
}

fn sync() -> Command {
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

fn unregister() -> Command {
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

fn wait() -> Command {
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

fn restore() -> Command {
    let text = ValueParser::string;
    command("restore", "recovers database backup from a replica")
        .long_about("The restore command recovers a database from its replica.")
        .args(config_flags())
        .arg(value(
            "txid",
            "TXID",
            "Restore up to a specific hex-encoded transaction ID (inclusive).\n\
             Defaults to use the highest available transaction.",
            parser(values::txid),
        ))
        .arg(value(
            "timestamp",
            "TIMESTAMP",
            "Restore to a specific point-in-time (inclusive): RFC 3339, a local time with\n\
             its zone (2020-01-01 00:00 Europe/Berlin), or a time ago (10m ago).\n\
             Defaults to use the latest available backup.",
            text(),
        ))
        .arg(value(
            "o",
            "PATH",
            "Output path of the restored database; - is standard output.\n\
             Defaults to original DB path. With -all, a directory.",
            path(),
        ))
        .arg(switch(
            "all",
            "Restore every database of the configuration file, or every one that is found\n\
             below a URL. One that fails keeps no other from being restored; then the exit\n\
             code is 1.",
        ))
        .arg(switch("if-db-not-exists", "Returns exit code of 0 if the database already exists."))
        .arg(switch("if-replica-exists", "Returns exit code of 0 if no backups found."))
        .arg(switch("dry-run", "Print the restore plan and exit without writing a database."))
        .arg(switch("force", "Overwrite an existing output database and SQLite sidecar files."))
        .arg(switch(
            "delta",
            "Build upon the database that is at the output: fetch only what changed since.\n\
             Fetches everything if the replica does not know that database.",
        ))
        .arg(switch("json", "Output raw JSON summary on successful restore."))
        .arg(value(
            "replica",
            "NAME",
            "Restore from a specific replica.\nDefaults to the replica with the latest data.",
            text(),
        ))
        .arg(value(
            "parallelism",
            "NUM",
            "How many requests to the replica may be under way at once.\nDefaults to 8, at most 64",
            parser(values::parallelism),
        ))
        .arg(value(
            "integrity-check",
            "MODE",
            "Run a post-restore integrity check on the database.\n\
             MODE is one of: none, quick, full.\nDefaults to none.",
            text(),
        ))
        .arg(switch(
            "f",
            "Follow mode: keep the restored database up to date until stopped.\n\
             Readers must open it read-only.",
        ))
        .arg(value(
            "follow-interval",
            "DURATION",
            "Polling interval for follow mode.\nDefaults to 1s.",
            parser(values::duration),
        ))
        .arg(value("generation", "NAME", "Restore from a specific generation of a Litestream 0.3 backup.", text()))
        .arg(value(
            "index",
            "NUM",
            "Restore up to a specific hex-encoded WAL index of a Litestream 0.3 backup\n\
             (inclusive). The snapshots and wal commands print indexes in decimal.",
            parser(values::index),
        ))
        .arg(switch("v", "Verbose output."))
        .override_usage("[arguments] DB_PATH\n[arguments] -o PATH REPLICA_URL\n[arguments] -all [-o DIR]\n[arguments] -all -o DIR URL")
        .after_help(
            "# Restore latest replica for database to original location.\n\
             $ PROGRAM restore /path/to/db\n\n\
             # Restore replica for database to a given point in time.\n\
             $ PROGRAM restore -timestamp 2020-01-01T00:00:00Z /path/to/db\n\n\
             # Restore latest replica for database to new /tmp directory\n\
             $ PROGRAM restore -o /tmp/db /path/to/db\n\n\
             # Restore database from S3 replica URL.\n\
             $ PROGRAM restore -o /tmp/db s3://mybucket/db\n\n\
             # Preview restore plan without writing a database.\n\
             $ PROGRAM restore -dry-run -o /tmp/db s3://mybucket/db",
        )
}

fn version() -> Command {
    command("version", "prints the binary version")
        .long_about("Prints the version.")
        .arg(switch("verbose", "Print details of the build as well."))
        .override_usage("[arguments]")
}

fn command(name: &'static str, about: &'static str) -> Command {
    let words = Arg::new(WORDS).action(ArgAction::Append).num_args(0..).value_parser(ValueParser::string());
    Command::new(name).no_binary_name(true).disable_help_flag(true).disable_version_flag(true).about(about).arg(words)
}

fn config_flags() -> [Arg; 2] {
    [
        value("config", "PATH", "Specifies the configuration file.\nDefaults to /etc/litestream.yml", path()),
        switch("no-expand-env", "Disables environment variable expansion in configuration file."),
    ]
}

/// For commands that ask the daemon. `timeout` is the default, in seconds.
fn socket_flags(timeout: u32) -> [Arg; 5] {
    let [config, no_expand_env] = config_flags();
    let timeout_help = format!("Maximum time to wait, in seconds or with a unit.\nDefaults to {timeout}.");
    [
        config,
        no_expand_env,
        value(
            "socket",
            "PATH",
            "The daemon's control socket.\n\
             Defaults to what the configuration file says, else to /var/run/litestream.sock",
            path(),
        ),
        Arg::new("timeout")
            .long("timeout")
            .value_name("SECONDS")
            .help(timeout_help)
            .value_parser(parser(values::timeout)),
        switch("json", "Output raw JSON instead of human-readable text."),
    ]
}

fn value(name: &'static str, placeholder: &'static str, help: &'static str, parser: ValueParser) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).help(help).value_parser(parser)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    // The canonical form always gives the value: `--name=true`.
    Arg::new(name).long(name).help(help).num_args(0..=1).value_parser(ValueParser::bool())
}

fn parser<T: Clone + Send + Sync + 'static>(parse: fn(&str) -> Result<T, String>) -> ValueParser {
    ValueParser::new(parse)
}

fn path() -> ValueParser {
    // Unlike clap's own, takes the empty text: `-config ""` means "not given".
    ValueParser::new(clap::builder::StringValueParser::new().map(PathBuf::from))
}

/// The positional words.
const WORDS: &str = "words";

/// The flags of a command, without its positional words.
pub(crate) fn flags_of(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_positional())
}

/// The words with the first that is no flag at the end, so that flags may follow it.
pub(crate) fn path_last(command: &Command, words: &[String]) -> Vec<String> {
    let mut words = words.to_vec();
    if let Ok(split) = split(command, &words) {
        let at = words.len() - split.rest.len();
        let after_the_end_of_flags = at > 0 && words[at - 1] == "--";
        if !after_the_end_of_flags && !split.rest.is_empty() {
            words[at..].rotate_left(1);
        }
    }
    words
}

fn split(command: &Command, words: &[String]) -> Result<flags::Words, FlagError> {
    flags::split(words, |name| {
        let arg = flags_of(command).find(|arg| arg.get_long() == Some(name))?;
        Some(if is_switch(arg) { Kind::Switch } else { Kind::Value })
    })
}

/// A command's flags and words, typed.
pub(crate) struct Matches(ArgMatches);

impl Matches {
    /// Reads the words after the command's name.
    pub(crate) fn parse(command: Command, words: &[String]) -> Result<Self, FlagError> {
        let words = split(&command, words)?;
        let canonical = words.flags.iter().map(|(name, value)| format!("--{name}={value}"));
        let canonical: Vec<String> = canonical.chain(["--".to_owned()]).chain(words.rest).collect();
        command.try_get_matches_from(canonical).map(Self).map_err(|error| invalid_value(&error))
    }

    pub(crate) fn on(&self, name: &str) -> bool {
        self.0.get_one::<bool>(name).copied().unwrap_or(false)
    }

    pub(crate) fn get<T: Clone + Send + Sync + 'static>(&self, name: &str) -> Option<T> {
        self.0.get_one::<T>(name).cloned()
    }

    /// A text flag; empty text is the same as absent, as everywhere in Go programs.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get::<String>(name).filter(|text| !text.is_empty())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get::<PathBuf>(name).filter(|path| !path.as_os_str().is_empty())
    }

    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        self.get(name)
    }

    pub(crate) fn words(&self) -> Vec<String> {
        self.0.get_many::<String>(WORDS).map(|words| words.cloned().collect()).unwrap_or_default()
    }
}

pub(crate) fn is_switch(arg: &Arg) -> bool {
    arg.get_value_names().is_none()
}

/// Turns clap's complaint about a value into Go's. Nothing else can go wrong:
/// the grammar has already refused what is not defined or has no value.
fn invalid_value(error: &clap::Error) -> FlagError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    // clap names the argument as in its own help: `--level <LEVEL>`.
    let name = text(ContextKind::InvalidArg);
    let name = name.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default().to_owned();
    let reason = std::error::Error::source(error).map_or_else(|| error.kind().to_string(), ToString::to_string);
    debug_assert!(!name.is_empty(), "unexpected complaint {}", quote(&reason));
    FlagError::InvalidValue { name, value: text(ContextKind::InvalidValue), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(command: &str, words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        match Matches::parse(find(command).unwrap(), &words) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn definitions_are_sound() {
        for command in all() {
            command.debug_assert();
        }
        wal().debug_assert();
        assert_eq!(find("wal").unwrap().get_name(), "wal");
        assert!(find("foo").is_none());
    }

    #[test]
    fn flags_may_follow_the_path_where_we_say_so() {
        let cases = [
            ("db -txid 4 -timeout 1", "-txid 4 -timeout 1 db"),
            ("-json db -txid 4", "-json -txid 4 db"),
            ("-txid 4 db", "-txid 4 db"),
            ("-- db -txid", "-- db -txid"),
            ("a b", "b a"),
            ("-nonsense", "-nonsense"),
        ];
        for (line, expected) in cases {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(path_last(&find("wait").unwrap(), &words).join(" "), expected);
        }
    }

    #[test]
    fn wrong_values_are_reported_as_go_does() {
        let cases: [(&str, &[&str], &str); 9] = [
            ("restore", &["-parallelism", "x"], r#"invalid value "x" for flag -parallelism: parse error"#),
            ("restore", &["-parallelism", "0"], r#"invalid value "0" for flag -parallelism: must be at least 1"#),
            ("restore", &["-txid", "xyz"], r#"invalid value "xyz" for flag -txid: invalid txid format"#),
            ("restore", &["-follow-interval=5"], r#"invalid value "5" for flag -follow-interval: parse error"#),
            ("restore", &["-json=maybe"], r#"invalid boolean value "maybe" for -json: parse error"#),
            ("ltx", &["-level", "12"], r#"invalid value "12" for flag -level: level must be between 0 and 9"#),
            ("ltx", &["-level", "z"], r#"invalid value "z" for flag -level: invalid level: must be 0-9 or "all""#),
            ("restore", &["-config", "", "-o=", "-parallelism=0x8", "db"], "accepted"),
            ("replicate", &["-once", "--", "-x"], "accepted"),
        ];
        for (command, words, expected) in cases {
            assert_eq!(reason(command, words), expected);
        }
    }
}
