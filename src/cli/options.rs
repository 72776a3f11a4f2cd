//! What each command was asked to do, as typed values. Pure: flags in, options
//! or the reason why they make no sense out; the first problem is reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::commands::Matches;
use super::completion::Shell;
use super::error::CliError;
use super::values;
use crate::config::shown_url;
use crate::replica::PinName;
use crate::restore::{IntegrityCheck, Older, Target};
use crate::types::{Generation, Timestamp, Txid};

/// Which config file to read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFlags {
    /// `-config`; without it the environment and then the default path decide.
    pub path: Option<PathBuf>,
    /// Whether `$NAME` is replaced in the file's text.
    pub expand_env: bool,
}

/// What an argument names: a database of the config, or a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A database path, to be found in the config.
    Database(PathBuf),
    /// A replica URL; no config is read.
    Url(String),
}

/// `-timeout`; `None` stands for a negative one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

/// How to ask the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The config file, which may say where the socket is.
    pub config: ConfigFlags,
    /// `-socket`.
    pub socket: Option<PathBuf>,
    /// How long to wait for the answer; `None`: however long.
    pub timeout: Option<Duration>,
    /// Print JSON.
    pub json: bool,
}

/// What to ask the daemon for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Follow a database again.
    Start(PathBuf),
    /// Let go of a database for a while.
    Stop(PathBuf),
    /// Capture what is committed.
    Sync {
        /// The database.
        database: PathBuf,
        /// And upload it.
        wait: bool,
    },
    /// Wait until something is confirmed, without uploading it any sooner.
    Wait {
        /// The database.
        database: PathBuf,
        /// What; `None`: what is committed now.
        txid: Option<u64>,
    },
    /// Follow another database.
    Register {
        /// The database.
        database: PathBuf,
        /// Where it goes.
        replica: String,
    },
    /// Follow a database no more.
    Unregister {
        /// The database.
        database: PathBuf,
        /// Only tell what would be asked.
        dry_run: bool,
    },
    /// Read the config again.
    Reload,
    /// Name the databases.
    List,
    /// Tell about the daemon itself.
    Info,
}

/// `info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InfoJob {
    /// About the daemon.
    Daemon(Ask),
    /// About replicas.
    Replicas(InfoOptions),
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusOptions {
    /// How to ask the daemon.
    pub ask: Ask,
    /// Only this database.
    pub database: Option<PathBuf>,
}

/// `reset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// The database.
    pub database: PathBuf,
    /// Only tell.
    pub dry_run: bool,
}

/// `audit` and `verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Print JSON.
    pub json: bool,
}

/// `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Only this database.
    pub database: Option<PathBuf>,
    /// Where the daemon answers.
    pub addr: Option<String>,
    /// What must be shown to it.
    pub token_file: Option<PathBuf>,
    /// A longer lag is a warning.
    pub warning: Option<Duration>,
    /// A longer lag is critical.
    pub critical: Option<Duration>,
    /// How long to wait for answers.
    pub timeout: Duration,
}

/// `databases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabasesOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Print JSON.
    pub json: bool,
}

/// `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// What to examine; everything in the config if absent.
    pub source: Option<Source>,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Send a larger object too.
    pub deep: bool,
    /// Print JSON.
    pub json: bool,
}

/// `drill`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Restore into a file; `None`: as the config says.
    pub full: Option<bool>,
    /// Where that file goes for a while.
    pub scratch: Option<PathBuf>,
    /// Print JSON.
    pub json: bool,
}

/// `generations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationsOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
}

/// `info` about replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Requests at a time that the restore would have.
    pub parallelism: usize,
    /// Print JSON.
    pub json: bool,
}

/// What to do about pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinAction {
    /// Show them.
    List,
    /// Keep a point.
    Set {
        /// Under this name.
        name: PinName,
        /// Which.
        target: Target,
    },
    /// Keep it no longer.
    Release {
        /// The name.
        name: PinName,
    },
}

/// `pin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// What to do.
    pub action: PinAction,
    /// Print JSON.
    pub json: bool,
}

/// `prune`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where; `None`: every database of the config.
    pub source: Option<Source>,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// In place of `snapshot.retention`; always given with a URL.
    pub retention: Option<Duration>,
    /// First make the newest point a snapshot.
    pub snapshot: bool,
    /// Only tell.
    pub dry_run: bool,
    /// Also delete more than half of the snapshots.
    pub confirm: bool,
}

/// Which levels to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// This one, 0 to 9.
    One(u8),
    /// Level 0, then 1 to 9.
    All,
}

/// `ltx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LtxOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// Where to look.
    pub source: Source,
    /// Only the replica with this name.
    pub replica: Option<String>,
    /// Which levels.
    pub levels: Levels,
    /// Print JSON.
    pub json: bool,
}

/// `wal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Only this generation, which then is one of Litestream 0.3.
    pub generation: Option<Generation>,
    /// Levels or JSON were asked for, which Litestream 0.3 does not have.
    pub as_ltx: bool,
    /// What `ltx` would do.
    pub ltx: LtxOptions,
}

/// What to replicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Everything in the config file.
    Config(ConfigFlags),
    /// One database given on the command line; no config file is read.
    Direct {
        /// The database.
        database: PathBuf,
        /// Its replicas, one or more.
        urls: Vec<String>,
    },
}

/// `replicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicateOptions {
    /// What to replicate.
    pub job: Job,
    /// Sync each database once, then stop.
    pub once: bool,
    /// The command line of a child process; beats the config.
    pub exec: Option<String>,
    /// Exit with the code of the child process.
    pub exec_exit_code: bool,
    /// Then make the newest point of every replica a snapshot.
    pub force_snapshot: bool,
    /// Then delete what policy no longer keeps.
    pub enforce_retention: bool,
    /// `-log-level`, which beats `LOG_LEVEL` and the config.
    pub log_level: Option<String>,
    /// Restore every database whose file is missing before replication starts.
    pub restore_if_db_not_exists: bool,
    /// An unreachable replica at start is fatal.
    pub strict_start: bool,
    /// Where the control socket is served, in place of what the config says.
    pub socket: Option<PathBuf>,
    /// `-trace` was given: say once that it does nothing.
    pub trace_given: bool,
}

/// `restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// The config file.
    pub config: ConfigFlags,
    /// What to restore.
    pub source: Source,
    /// Where to; always given with a URL, else the database's own path if absent.
    pub output: Option<PathBuf>,
    /// How far.
    pub target: Target,
    /// Only from a backup of Litestream 0.3, and how far in it.
    pub older: Older,
    /// Only from the replica with this name.
    pub replica: Option<String>,
    /// An existing output is success.
    pub if_db_not_exists: bool,
    /// No backup at all is success.
    pub if_replica_exists: bool,
    /// Requests under way at once; at least 1.
    pub parallelism: usize,
    /// Print the plan, write nothing.
    pub dry_run: bool,
    /// Replace what is at the output.
    pub force: bool,
    /// Bring what is at the output up to date.
    pub delta: bool,
    /// Keep it up to date, looking at the replica this often.
    pub follow: Option<Duration>,
    /// Print JSON; logs go to stderr.
    pub json: bool,
    /// Check of the result.
    pub integrity_check: IntegrityCheck,
    /// Log more.
    pub verbose: bool,
}

impl RestoreOptions {
    /// The output is standard output.
    pub(crate) fn to_stdout(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
    }
}

/// `restore -all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreAllOptions {
    /// Everything below this URL, in place of everything in the config.
    pub below: Option<String>,
    /// The directory that the databases go to, if not to where they are configured.
    pub dir: Option<PathBuf>,
    /// Everything that is the same for each.
    template: RestoreOptions,
}

impl RestoreAllOptions {
    /// What is the same for each database; source and output are not.
    pub(crate) fn template(&self) -> &RestoreOptions {
        &self.template
    }

    /// The options for one of them.
    pub(crate) fn of(&self, database: &Path, output: PathBuf) -> RestoreOptions {
        let source = Source::Database(database.to_path_buf());
        RestoreOptions { source, output: Some(output), ..self.template.clone() }
    }

    /// The options for one that was found below a URL.
    pub(crate) fn of_url(&self, url: String, output: PathBuf) -> RestoreOptions {
        RestoreOptions { source: Source::Url(url), output: Some(output), ..self.template.clone() }
    }
}

/// What to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreJob {
    /// One database.
    One(RestoreOptions),
    /// All databases of a config.
    All(RestoreAllOptions),
}

/// `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionOptions {
    /// Print the build's details too.
    pub verbose: bool,
}

/// Whether the argument is a replica URL: `^\w+://`.
pub(crate) fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// `-txid`, where zero stands for the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TxidLimit(pub(crate) Option<Txid>);

const URL_WITH_CONFIG: &str = "cannot specify a replica URL and the -config flag";

fn config_flags(matches: &Matches) -> ConfigFlags {
    ConfigFlags { path: matches.path("config"), expand_env: !matches.on("no-expand-env") }
}

/// The one argument of a command that looks at a database or a replica.
fn source(matches: &Matches, example: &str) -> Result<Source, CliError> {
    let source = match matches.words().as_slice() {
        [] => {
            let message = "database path or replica URL required".to_owned();
            return Err(CliError::Usage { message, hint: Some(example.to_owned()) });
        }
        [url] if is_url(url) => Source::Url(url.clone()),
        [path] => Source::Database(PathBuf::from(path)),
        _ => return Err(CliError::usage("too many arguments")),
    };
    match source {
        Source::Url(_) if matches.path("config").is_some() => Err(CliError::usage(URL_WITH_CONFIG)),
        source => Ok(source),
    }
}

pub(crate) fn completion(matches: &Matches, program: &str) -> Result<Shell, CliError> {
    let words = matches.words();
    let [name] = words.as_slice() else {
        let message = "the name of a shell required: bash, zsh or fish".to_owned();
        return Err(CliError::Usage { message, hint: Some(format!("{program} completion bash")) });
    };
    Shell::from_name(name)
        .ok_or_else(|| CliError::usage(format!("no completion for {name:?}: there is bash, zsh and fish")))
}

pub(crate) fn man(matches: &Matches) -> Result<(), CliError> {
    match matches.words().as_slice() {
        [] => Ok(()),
        _ => Err(CliError::usage("too many arguments")),
    }
}

pub(crate) fn check(matches: &Matches) -> Result<CheckOptions, CliError> {
    let database = match matches.words().as_slice() {
        [] => None,
        [path] => Some(PathBuf::from(path)),
        _ => return Err(CliError::usage("too many arguments")),
    };
    let (warning, critical) = (matches.duration("warning"), matches.duration("critical"));
    if warning.zip(critical).is_some_and(|(warning, critical)| warning > critical) {
        return Err(CliError::usage("-warning must not be longer than -critical"));
    }
    Ok(CheckOptions {
        config: config_flags(matches),
        database,
        addr: matches.text("addr"),
        token_file: matches.path("token-file"),
        warning,
        critical,
        timeout: matches.duration("timeout").unwrap_or(Duration::from_secs(10)),
    })
}

pub(crate) fn databases(matches: &Matches) -> Result<DatabasesOptions, CliError> {
    if !matches.words().is_empty() {
        return Err(CliError::usage("too many arguments"));
    }
    Ok(DatabasesOptions { config: config_flags(matches), json: matches.on("json") })
}

pub(crate) fn doctor(matches: &Matches) -> Result<DoctorOptions, CliError> {
    let source = if matches.words().is_empty() { None } else { Some(source(matches, "")?) };
    Ok(DoctorOptions {
        config: config_flags(matches),
        source,
        replica: matches.text("replica"),
        deep: matches.on("deep"),
        json: matches.on("json"),
    })
}

pub(crate) fn generations(matches: &Matches, program: &str) -> Result<GenerationsOptions, CliError> {
    let source = source(matches, &format!("{program} generations /path/to/db"))?;
    Ok(GenerationsOptions { config: config_flags(matches), source, replica: matches.text("replica") })
}

pub(crate) fn info(matches: &Matches, program: &str) -> Result<InfoJob, CliError> {
    if matches.words().is_empty() {
        return Ok(InfoJob::Daemon(ask(matches, "info")?));
    }
    for flag in ["socket", "timeout"] {
        if matches.text(flag).is_some() || matches.get::<Timeout>(flag).is_some() {
            let message = format!("cannot specify -{flag} with a database or a replica: that is for asking the daemon");
            return Err(CliError::usage(message));
        }
    }
    Ok(InfoJob::Replicas(InfoOptions {
        config: config_flags(matches),
        source: source(matches, &format!("{program} info /path/to/db"))?,
        replica: matches.text("replica"),
        parallelism: matches.get("parallelism").unwrap_or(DEFAULT_PARALLELISM),
        json: matches.on("json"),
    }))
}

/// What the commands that ask the daemon have in common.
fn ask(matches: &Matches, command: &str) -> Result<Ask, CliError> {
    let default = if ["info", "list", "status"].contains(&command) { 10 } else { 30 };
    // For these two the original takes 0 for "however long".
    let endless = ["start", "stop"].contains(&command);
    let timeout = match matches.get("timeout").unwrap_or(Timeout(Some(Duration::from_secs(default)))) {
        Timeout(Some(timeout)) if !timeout.is_zero() => Some(timeout),
        _ if endless => None,
        _ => return Err(CliError::usage("timeout must be greater than 0")),
    };
    Ok(Ask { config: config_flags(matches), socket: matches.path("socket"), timeout, json: matches.on("json") })
}

pub(crate) fn order(matches: &Matches, command: &str, program: &str) -> Result<(Order, Ask), CliError> {
    let database = || {
        let example = match command {
            "register" => "-replica s3://bucket/prefix /path/to/db",
            _ => "/path/to/db",
        };
        one_database(matches, &format!("{program} {command} {example}"))
    };
    let order = match command {
        "start" => Order::Start(database()?),
        "stop" => Order::Stop(database()?),
        "sync" => Order::Sync { database: database()?, wait: matches.on("wait") },
        "wait" => Order::Wait { database: database()?, txid: matches.get("txid") },
        "register" => {
            let database = database()?;
            let replica = matches.text("replica").ok_or_else(|| CliError::Usage {
                message: "-replica is required".to_owned(),
                hint: Some(format!("{program} register -replica s3://bucket/prefix {}", database.display())),
            })?;
            Order::Register { database, replica }
        }
        "unregister" => Order::Unregister { database: database()?, dry_run: matches.on("dry-run") },
        _ if !matches.words().is_empty() => return Err(CliError::usage("too many arguments")),
        "reload" => Order::Reload,
        _ => Order::List,
    };
    Ok((order, ask(matches, command)?))
}

pub(crate) fn status(matches: &Matches) -> Result<StatusOptions, CliError> {
    let database = match matches.words().as_slice() {
        [] => None,
        [path] => Some(PathBuf::from(path)),
        _ => return Err(CliError::usage("too many arguments")),
    };
    Ok(StatusOptions { ask: ask(matches, "status")?, database })
}

pub(crate) fn reset(matches: &Matches, program: &str) -> Result<ResetOptions, CliError> {
    let database = one_database(matches, &format!("{program} reset /path/to/db"))?;
    Ok(ResetOptions { config: config_flags(matches), database, dry_run: matches.on("dry-run") })
}

fn one_database(matches: &Matches, example: &str) -> Result<PathBuf, CliError> {
    match matches.words().as_slice() {
        [] => Err(CliError::Usage { message: "database path required".to_owned(), hint: Some(example.to_owned()) }),
        [path] => Ok(PathBuf::from(path)),
        _ => Err(CliError::usage("too many arguments")),
    }
}

pub(crate) fn ltx(matches: &Matches, program: &str) -> Result<LtxOptions, CliError> {
    let source = source(matches, &format!("{program} ltx /path/to/db"))?;
    let levels = matches.get("level").unwrap_or(Levels::One(0));
    let replica = matches.text("replica");
    Ok(LtxOptions { config: config_flags(matches), source, replica, levels, json: matches.on("json") })
}

pub(crate) fn pin(matches: &Matches, program: &str, now: Timestamp) -> Result<PinOptions, CliError> {
    let source = source(matches, &format!("{program} pin -name NAME /path/to/db"))?;
    let point = matches.text("at").is_some() || matches.get::<TxidLimit>("txid").is_some();
    let action = match (matches.on("list"), matches.get::<PinName>("name"), matches.get::<PinName>("release")) {
        (true, None, None) if !point => PinAction::List,
        (false, Some(name), None) => PinAction::Set { name, target: target(matches, "at", now)? },
        (false, None, Some(name)) if !point => PinAction::Release { name },
        _ => {
            let message = "use one of -name NAME (with -at or -txid, or for the newest point), -list and -release NAME";
            return Err(CliError::usage(message));
        }
    };
    let json = matches.on("json");
    Ok(PinOptions { config: config_flags(matches), source, replica: matches.text("replica"), action, json })
}

pub(crate) fn prune(matches: &Matches, program: &str) -> Result<PruneOptions, CliError> {
    let source = match matches.words().is_empty() {
        true => None,
        false => Some(source(matches, &format!("{program} prune /path/to/db"))?),
    };
    let retention = matches.duration("retention");
    if let (Some(Source::Url(url)), None) = (&source, retention) {
        let message = "-retention is required with a replica URL: no config says how much is to be kept".to_owned();
        return Err(CliError::Usage { message, hint: Some(format!("{program} prune -dry-run -retention 720h {url}")) });
    }
    if retention.is_some_and(|retention| retention.is_zero()) {
        return Err(CliError::usage("-retention must be greater than 0"));
    }
    if matches.on("snapshot") && matches.on("dry-run") {
        return Err(CliError::usage("cannot specify -snapshot with -dry-run: nothing is to be written"));
    }
    Ok(PruneOptions {
        config: config_flags(matches),
        source,
        replica: matches.text("replica"),
        retention,
        snapshot: matches.on("snapshot"),
        dry_run: matches.on("dry-run"),
        confirm: matches.on("confirm"),
    })
}

pub(crate) fn audit(matches: &Matches, program: &str) -> Result<AuditOptions, CliError> {
    let source = source(matches, &format!("{program} audit /path/to/db"))?;
    let replica = matches.text("replica");
    Ok(AuditOptions { config: config_flags(matches), source, replica, json: matches.on("json") })
}

pub(crate) fn drill(matches: &Matches, program: &str) -> Result<DrillOptions, CliError> {
    let source = source(matches, &format!("{program} drill /path/to/db"))?;
    let full = match matches.text("mode").as_deref() {
        None => None,
        Some("stream") => Some(false),
        Some("full") => Some(true),
        Some(other) => return Err(CliError::usage(format!("invalid -mode value: {other}: must be stream or full"))),
    };
    let (replica, scratch) = (matches.text("replica"), matches.path("scratch"));
    Ok(DrillOptions { config: config_flags(matches), source, replica, full, scratch, json: matches.on("json") })
}

pub(crate) fn snapshots(matches: &Matches, program: &str) -> Result<GenerationsOptions, CliError> {
    let source = source(matches, &format!("{program} snapshots /path/to/db"))?;
    Ok(GenerationsOptions { config: config_flags(matches), source, replica: matches.text("replica") })
}

pub(crate) fn wal(matches: &Matches, program: &str) -> Result<WalOptions, CliError> {
    let as_ltx = matches.get::<Levels>("level").is_some() || matches.on("json");
    Ok(WalOptions { generation: generation(matches)?, as_ltx, ltx: ltx(matches, program)? })
}

pub(crate) fn replicate(matches: &Matches) -> Result<ReplicateOptions, CliError> {
    let words = matches.words();
    if let Some(flag) = words.iter().skip(1).find(|word| word.starts_with('-')) {
        let flag = super::quote::quote(flag);
        let message = format!("flag {flag} must be positioned before DB_PATH and REPLICA_URL arguments");
        return Err(CliError::usage(message));
    }
    let job = match words.as_slice() {
        [] => Job::Config(config_flags(matches)),
        [path] => return Err(CliError::usage(format!("must specify at least one replica URL for {path}"))),
        _ if matches.path("config").is_some() => return Err(CliError::usage(URL_WITH_CONFIG)),
        [path, urls @ ..] => Job::Direct { database: PathBuf::from(path), urls: urls.to_vec() },
    };
    let once = matches.on("once");
    if once && matches.text("exec").is_some() {
        return Err(CliError::usage("cannot specify -once flag with -exec"));
    }
    for flag in ["force-snapshot", "enforce-retention"] {
        if matches.on(flag) && !once {
            return Err(CliError::usage(format!("cannot specify -{flag} flag without -once")));
        }
    }
    Ok(ReplicateOptions {
        job,
        once,
        exec: matches.text("exec"),
        exec_exit_code: matches.on("exec-exit-code"),
        force_snapshot: matches.on("force-snapshot"),
        enforce_retention: matches.on("enforce-retention"),
        log_level: matches.text("log-level"),
        restore_if_db_not_exists: matches.on("restore-if-db-not-exists"),
        strict_start: matches.on("strict-start"),
        socket: matches.path("socket"),
        trace_given: matches.text("trace").is_some(),
    })
}

pub(crate) fn restore(matches: &Matches, program: &str, now: Timestamp) -> Result<RestoreJob, CliError> {
    if !matches.on("all") {
        let source = source(matches, &format!("{program} restore -o /path/to/db s3://bucket/prefix"))?;
        return restore_of(matches, program, source, now).map(RestoreJob::One);
    }
    let below = match matches.words().as_slice() {
        [] => None,
        [url] if is_url(url) => Some(url.clone()),
        _ => {
            let message = "cannot specify a database with -all: it means those of the config, or all below one URL";
            return Err(CliError::usage(message));
        }
    };
    let template = restore_of(matches, program, Source::Database(PathBuf::new()), now)?;
    if let Some(url) = &below {
        if template.output.is_none() {
            let hint = Some(format!("{program} restore -all -o /path/to/directory {}", shown_url(url)));
            return Err(CliError::Usage { message: "-o is required when restoring from a URL".to_owned(), hint });
        }
        if template.replica.is_some() || template.config.path.is_some() {
            return Err(CliError::usage("cannot specify -replica or -config with -all and a URL"));
        }
    }
    let alone = [
        ("-txid", matches!(template.target, Target::Txid(_))),
        ("-f", template.follow.is_some()),
        ("-dry-run", template.dry_run),
        ("-o -", template.to_stdout()),
    ];
    if let Some((flag, _)) = alone.into_iter().find(|(_, given)| *given) {
        return Err(CliError::usage(format!("cannot specify -all with {flag}: that is for one database")));
    }
    Ok(RestoreJob::All(RestoreAllOptions { below, dir: template.output.clone(), template }))
}

fn restore_of(matches: &Matches, program: &str, source: Source, now: Timestamp) -> Result<RestoreOptions, CliError> {
    let follow = follow(matches)?;
    let older = Older { generation: generation(matches)?, index: index(matches) };
    if older != Older::default() && matches.get::<TxidLimit>("txid").is_some_and(|limit| limit.0.is_some()) {
        let message = "cannot specify -txid with -generation or -index: Litestream 0.3 backups have no transaction IDs";
        return Err(CliError::usage(message));
    }
    let integrity_check = match matches.text("integrity-check").as_deref() {
        None | Some("none") => IntegrityCheck::None,
        Some("quick") => IntegrityCheck::Quick,
        Some("full") => IntegrityCheck::Full,
        Some(other) => return Err(CliError::usage(format!("invalid -integrity-check value: {other}"))),
    };
    let output = matches.path("o");
    if let (Source::Url(url), None) = (&source, &output) {
        let message = "-o is required when restoring from a replica URL".to_owned();
        return Err(CliError::Usage {
            message,
            hint: Some(format!("{program} restore -o /path/to/db {}", shown_url(url))),
        });
    }
    let options = RestoreOptions {
        config: config_flags(matches),
        source,
        output,
        target: target(matches, "timestamp", now)?,
        older,
        replica: matches.text("replica"),
        if_db_not_exists: matches.on("if-db-not-exists"),
        if_replica_exists: matches.on("if-replica-exists"),
        parallelism: matches.get("parallelism").unwrap_or(DEFAULT_PARALLELISM),
        dry_run: matches.on("dry-run"),
        force: matches.on("force"),
        delta: matches.on("delta"),
        follow,
        json: matches.on("json"),
        integrity_check,
        verbose: matches.on("v"),
    };
    let at_a_file = [
        ("-f", options.follow.is_some()),
        ("-delta", options.delta),
        ("-json", options.json && !options.dry_run),
        ("-if-db-not-exists", options.if_db_not_exists),
    ];
    match at_a_file.into_iter().find(|(_, given)| *given && options.to_stdout()) {
        Some((flag, _)) => Err(CliError::usage(format!("cannot specify {flag} with -o -: the output is no file"))),
        None => Ok(options),
    }
}

/// `-f` and how often.
fn follow(matches: &Matches) -> Result<Option<Duration>, CliError> {
    if !matches.on("f") {
        return match matches.duration("follow-interval") {
            Some(_) => Err(CliError::usage("cannot specify -follow-interval without -f")),
            None => Ok(None),
        };
    }
    let refused = ["timestamp", "generation"].into_iter().filter(|flag| matches.text(flag).is_some());
    let refused = refused.chain(index(matches).map(|_| "index"));
    let refused = refused.chain(["dry-run", "delta"].into_iter().filter(|flag| matches.on(flag)));
    let txid = matches.get::<TxidLimit>("txid").is_some_and(|limit| limit.0.is_some());
    if let Some(flag) = refused.chain(txid.then_some("txid")).next() {
        return Err(CliError::usage(format!("cannot specify -f with -{flag}: a database follows the newest state")));
    }
    match matches.duration("follow-interval").unwrap_or(DEFAULT_FOLLOW_INTERVAL) {
        Duration::ZERO => Err(CliError::usage("-follow-interval must be longer than 0")),
        interval => Ok(Some(interval)),
    }
}

/// As in Litestream.
const DEFAULT_FOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// The highest index is what Litestream 0.3 calls the latest.
fn index(matches: &Matches) -> Option<u32> {
    matches.get("index").filter(|index| *index < 0x7fff_ffff)
}

fn generation(matches: &Matches) -> Result<Option<Generation>, CliError> {
    let Some(text) = matches.text("generation") else { return Ok(None) };
    text.parse().map(Some).map_err(|reason| CliError::usage(format!("invalid -generation: {reason}")))
}

/// As in Litestream 0.3, where it counted downloads of WAL files.
const DEFAULT_PARALLELISM: usize = 8;

/// The point that `-txid` or the flag for an instant names; the newest without either.
fn target(matches: &Matches, instant: &str, now: Timestamp) -> Result<Target, CliError> {
    let txid = matches.get::<TxidLimit>("txid").and_then(|limit| limit.0);
    match (txid, matches.text(instant)) {
        (None, None) => Ok(Target::Latest),
        (Some(txid), None) => Ok(Target::Txid(txid)),
        (None, Some(text)) => values::timestamp(&text, now)
            .map(Target::Timestamp)
            .map_err(|reason| CliError::usage(format!("invalid -{instant}, {reason}"))),
        (Some(_), Some(_)) => Err(CliError::usage(format!("cannot specify both -txid and -{instant}: choose one"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn matches(line: &str) -> Matches {
        let mut words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        let command = commands::find(&words.next().unwrap()).unwrap();
        let words: Vec<String> = words.collect();
        Matches::parse(command, &words).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn one(matches: &Matches) -> RestoreOptions {
        match restore(matches, "p", NOW).unwrap() {
            RestoreJob::One(options) => options,
            RestoreJob::All(_) => panic!("all"),
        }
    }

    /// The error, and the hint after a slash.
    fn refused(line: &str) -> String {
        let matches = matches(line);
        let error = match line.split(' ').next().unwrap() {
            "databases" => databases(&matches).map(drop),
            "generations" => generations(&matches, "p").map(drop),
            "info" => info(&matches, "p").map(drop),
            "ltx" => ltx(&matches, "p").map(drop),
            "pin" => pin(&matches, "p", NOW).map(drop),
            "prune" => prune(&matches, "p").map(drop),
            "replicate" => replicate(&matches).map(drop),
            _ => restore(&matches, "p", NOW).map(drop),
        };
        let error = error.expect_err(line);
        let hint = error.hint().map(|hint| format!(" / {hint}")).unwrap_or_default();
        format!("{error}{hint}")
    }

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        let cases = [
            ("databases x", "too many arguments"),
            ("ltx", "database path or replica URL required / p ltx /path/to/db"),
            ("pin", "database path or replica URL required / p pin -name NAME /path/to/db"),
            (
                "pin -at now -list db",
                "use one of -name NAME (with -at or -txid, or for the newest point), -list and -release NAME",
            ),
            (
                "pin -name a -release b db",
                "use one of -name NAME (with -at or -txid, or for the newest point), -list and -release NAME",
            ),
            ("pin -name a -txid 1 -at now db", "cannot specify both -txid and -at: choose one"),
            (
                "prune file:///a",
                "-retention is required with a replica URL: no config says how much is to be kept \
                 / p prune -dry-run -retention 720h file:///a",
            ),
            ("prune -retention 0s db", "-retention must be greater than 0"),
            ("prune a b", "too many arguments"),
            ("prune -snapshot -dry-run db", "cannot specify -snapshot with -dry-run: nothing is to be written"),
            ("ltx a b", "too many arguments"),
            ("info", "database path or replica URL required / p info /path/to/db"),
            ("ltx -config c file:///a", "cannot specify a replica URL and the -config flag"),
            ("generations", "database path or replica URL required / p generations /path/to/db"),
            ("restore", "database path or replica URL required / p restore -o /path/to/db s3://bucket/prefix"),
            ("restore a b", "too many arguments"),
            ("restore db -o x", "too many arguments"),
            (
                "restore s3://b/p",
                "-o is required when restoring from a replica URL / p restore -o /path/to/db s3://b/p",
            ),
            ("restore -o x -config y s3://b", "cannot specify a replica URL and the -config flag"),
            (
                "restore -timestamp x db",
                "invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z), \
                 as a local time with its zone (e.g. 2000-01-01 00:00 Europe/Berlin), or as a time ago (e.g. 10m ago)",
            ),
            ("restore -integrity-check foo db", "invalid -integrity-check value: foo"),
            (
                "restore -txid 1 -timestamp 2024-01-01T00:00:00Z db",
                "cannot specify both -txid and -timestamp: choose one",
            ),
            ("restore -f -txid 1 db", "cannot specify -f with -txid: a database follows the newest state"),
            ("restore -f -timestamp now db", "cannot specify -f with -timestamp: a database follows the newest state"),
            ("restore -f -dry-run db", "cannot specify -f with -dry-run: a database follows the newest state"),
            ("restore -f -delta db", "cannot specify -f with -delta: a database follows the newest state"),
            ("restore -f -follow-interval 0 db", "-follow-interval must be longer than 0"),
            (
                "restore -all db",
                "cannot specify a database with -all: it means those of the config, or all below one URL",
            ),
            (
                "restore -all file:///r",
                "-o is required when restoring from a URL / p restore -all -o /path/to/directory file:///r",
            ),
            ("restore -all -replica x -o d file:///r", "cannot specify -replica or -config with -all and a URL"),
            ("restore -all -txid 1", "cannot specify -all with -txid: that is for one database"),
            ("restore -all -f", "cannot specify -all with -f: that is for one database"),
            ("restore -all -dry-run", "cannot specify -all with -dry-run: that is for one database"),
            ("restore -all -o -", "cannot specify -all with -o -: that is for one database"),
            ("restore -o - -f db", "cannot specify -f with -o -: the output is no file"),
            ("restore -o - -delta db", "cannot specify -delta with -o -: the output is no file"),
            ("restore -o - -json db", "cannot specify -json with -o -: the output is no file"),
            ("restore -follow-interval 1s db", "cannot specify -follow-interval without -f"),
            (
                "restore -generation 00112233 db",
                "invalid -generation: \"00112233\" is not a generation: 16 lower-case hex digits, not all zero",
            ),
            (
                "restore -index 1 -txid 2 db",
                "cannot specify -txid with -generation or -index: Litestream 0.3 backups have no transaction IDs",
            ),
            ("replicate db", "must specify at least one replica URL for db"),
            ("replicate -config c db file:///a", "cannot specify a replica URL and the -config flag"),
            (
                "replicate db file:///a -exec x",
                "flag \"-exec\" must be positioned before DB_PATH and REPLICA_URL arguments",
            ),
            ("replicate -once -exec x", "cannot specify -once flag with -exec"),
            ("replicate -force-snapshot", "cannot specify -force-snapshot flag without -once"),
            ("replicate -enforce-retention", "cannot specify -enforce-retention flag without -once"),
        ];
        for (line, expected) in cases {
            assert_eq!(refused(line), expected, "{line}");
        }
    }

    #[test]
    fn restore_defaults_are_those_of_the_original() {
        let options = one(&matches("restore db"));
        assert_eq!(options.source, Source::Database("db".into()));
        assert_eq!((options.target, options.parallelism), (Target::Latest, 8));
        assert_eq!((options.output, options.replica), (None, None));
        assert!(options.config.expand_env);
        assert_eq!(options.integrity_check, IntegrityCheck::None);
        let zero = one(&matches("restore -txid 0000000000000000 db"));
        assert_eq!(zero.target, Target::Latest);
    }

    #[test]
    fn following_has_an_interval() {
        let follow = |line: &str| one(&matches(line)).follow;
        assert_eq!(follow("restore -f db"), Some(Duration::from_secs(1)));
        assert_eq!(follow("restore -f -follow-interval 250ms -txid 0 db"), Some(Duration::from_millis(250)));
        assert_eq!(follow("restore db"), None);
    }

    #[test]
    fn all_databases_share_the_flags() {
        let job = restore(&matches("restore -all -config c -o out -force"), "p", NOW).unwrap();
        let RestoreJob::All(options) = job else { panic!("one") };
        assert_eq!(options.dir.as_deref(), Some(Path::new("out")));
        let each = options.of(Path::new("/x.db"), "out/x.db".into());
        assert_eq!((each.source, each.output), (Source::Database("/x.db".into()), Some("out/x.db".into())));
        assert!(each.force && each.config.path.is_some());
    }

    #[test]
    fn flags_for_old_backups_arrive() {
        let generation = "00112233aabbccdd".parse().ok();
        for (line, index) in [("-index 1f", Some(0x1f)), ("-index 7fffffff", None), ("-index 0000001f", Some(0x1f))] {
            let options = one(&matches(&format!("restore -generation 00112233aabbccdd {line} db")));
            assert_eq!(options.older, Older { generation, index }, "{line}");
        }
    }

    #[test]
    fn every_restore_flag_arrives() {
        let line = "restore -config c -no-expand-env -o out -if-db-not-exists -if-replica-exists -parallelism 3 \
                    -txid 2a -replica r -dry-run -force -delta -json -integrity-check quick -v db";
        let options = one(&matches(line));
        let expected = RestoreOptions {
            older: Older::default(),
            config: ConfigFlags { path: Some("c".into()), expand_env: false },
            source: Source::Database("db".into()),
            output: Some("out".into()),
            target: Target::Txid(Txid::new(42).unwrap()),
            replica: Some("r".to_owned()),
            if_db_not_exists: true,
            if_replica_exists: true,
            parallelism: 3,
            dry_run: true,
            force: true,
            delta: true,
            follow: None,
            json: true,
            integrity_check: IntegrityCheck::Quick,
            verbose: true,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn every_replicate_flag_arrives() {
        let line = "replicate -once -force-snapshot -enforce-retention -log-level debug -restore-if-db-not-exists -strict-start -socket s -trace t db file:///a s3://b/c";
        let options = replicate(&matches(line)).unwrap();
        let expected = ReplicateOptions {
            job: Job::Direct { database: "db".into(), urls: vec!["file:///a".into(), "s3://b/c".into()] },
            once: true,
            exec: None,
            exec_exit_code: false,
            force_snapshot: true,
            enforce_retention: true,
            log_level: Some("debug".into()),
            restore_if_db_not_exists: true,
            strict_start: true,
            socket: Some("s".into()),
            trace_given: true,
        };
        assert_eq!(options, expected);
        let options = replicate(&matches("replicate -exec app --exec-exit-code --config=c")).unwrap();
        assert_eq!((options.exec.as_deref(), options.exec_exit_code), (Some("app"), true));
        assert_eq!(options.job, Job::Config(ConfigFlags { path: Some("c".into()), expand_env: true }));
    }

    #[test]
    fn a_url_begins_with_a_scheme() {
        for url in ["s3://b/c", "file:///a", "sqlite:///x.db", "a_1://"] {
            assert!(is_url(url), "{url}");
        }
        for path in ["/a", "a://b".trim_start_matches('a'), "C:\\x", "s-3://x", "/s3://x", "db"] {
            assert!(!is_url(path), "{path}");
        }
    }
}
