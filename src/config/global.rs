//! The settings of the program as a whole. Keys whose feature is not built yet
//! are checked all the same, so that a config does not become invalid the day
//! the feature arrives. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::{Warning, WarningKind};
use super::duration::show;
use super::env::Environment;
use super::error::Error;
use super::monitoring::{self, Monitoring};
use super::paths::absolute;
use super::section::Section;

/// Settings of the program as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// The command line of the child process whose life ours follows.
    pub exec: Option<String>,
    /// How long the last upload of each database is tried when stopping; zero
    /// means once.
    pub shutdown_sync_timeout: Duration,
    /// The pause between those tries.
    pub shutdown_sync_interval: Duration,
    /// A replica that cannot be reached at the start is fatal.
    pub strict_start: bool,
    /// Bytes that may wait locally for slow replicas, all databases together; `None`: the spools' default.
    pub spool_max_bytes: Option<u64>,
    /// Bytes of each file system that are to stay free; `None`: a small share.
    pub disk_free_floor: Option<u64>,
    /// Where commands reach the daemon, if they do.
    pub socket: Option<Socket>,
    /// Who may know how things are, and who is told.
    pub monitoring: Monitoring,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            exec: None,
            shutdown_sync_timeout: Duration::from_secs(30),
            shutdown_sync_interval: Duration::from_millis(500),
            strict_start: false,
            spool_max_bytes: None,
            disk_free_floor: None,
            socket: None,
            monitoring: Monitoring::default(),
        }
    }
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    /// The permissions of its file.
    pub mode: u32,
}

/// Where the control socket is, unless configured.
pub const DEFAULT_SOCKET: &str = "/var/run/litestream.sock";
/// Only for the user that the daemon runs as.
const SOCKET_MODE: u32 = 0o600;

impl Socket {
    /// The socket at that path, for the daemon's user alone.
    pub fn at(path: PathBuf) -> Self {
        Self { path, mode: SOCKET_MODE }
    }
}

/// How much to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer asks for.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What may need attention.
    Warn,
    /// What needs attention.
    Error,
}

impl LogLevel {
    /// The level of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "trace" => Some(Self::Trace),
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" | "warning" => Some(Self::Warn),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time=... level=INFO msg=... key=value`.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
    /// Short lines for a person.
    Pretty,
}

/// How to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// How much.
    pub level: LogLevel,
    /// In which shape.
    pub format: LogFormat,
    /// To stderr instead of stdout.
    pub stderr: bool,
    /// With the place in the source code.
    pub source: bool,
}

pub(crate) fn logging(section: Section<'_>, warnings: &mut Vec<Warning>) -> Result<Logging, Error> {
    let level = section.text("level").map(|name| (name, LogLevel::from_name(name)));
    if let Some((name, None)) = level {
        let line = section.line("level");
        let text = format!("\"logging.level\" (line {line}) is {name:?}, which is no level: using \"info\"");
        warnings.push(Warning { line, kind: WarningKind::Suspicious, text });
    }
    let format = match section.text("type") {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some("pretty") => LogFormat::Pretty,
        Some(other) => return Err(Error::field("logging.type", "must be text, json or pretty", other)),
    };
    Ok(Logging {
        level: level.and_then(|(_, level)| level).unwrap_or_default(),
        format,
        stderr: section.bool("stderr").unwrap_or(false),
        source: section.bool("source").unwrap_or(false),
    })
}

pub(crate) fn global(root: Section<'_>, environment: &Environment) -> Result<Global, Error> {
    snapshots(root.section("snapshot"), "")?;
    above_zero("sync-interval", "sync interval must be greater than 0", root.duration("sync-interval"))?;
    let l0_retention = root.duration("l0-retention");
    at_least_zero("l0-retention", "l0 retention must not be negative", l0_retention)?;
    let interval = root.duration("l0-retention-check-interval");
    above_zero("l0-retention-check-interval", "l0 retention check interval must be greater than 0", interval)?;
    let timeout = root.duration("shutdown-sync-timeout");
    at_least_zero("shutdown-sync-timeout", "shutdown-sync-timeout must be >= 0", timeout)?;
    let pause = root.duration("shutdown-sync-interval");
    above_zero("shutdown-sync-interval", "shutdown sync interval must be greater than 0", pause)?;
    let validation = root.section("validation").duration("interval");
    at_least_zero("validation.interval", "validation interval must not be negative", validation)?;
    at_least_zero("park-after", "must not be negative", root.duration("park-after"))?;
    let monitoring = monitoring::monitoring(root)?;
    levels(root)?;
    let defaults = Global::default();
    Ok(Global {
        exec: root.text("exec").map(str::to_owned),
        shutdown_sync_timeout: positive(timeout).unwrap_or(defaults.shutdown_sync_timeout),
        shutdown_sync_interval: positive(pause).unwrap_or(defaults.shutdown_sync_interval),
        strict_start: root.bool("strict-start").unwrap_or(defaults.strict_start),
        spool_max_bytes: match root.size("spool-max-size") {
            Some(0) => return Err(Error::field("spool-max-size", "must be greater than 0", "0")),
            bytes => bytes,
        },
        disk_free_floor: root.size("disk-free-floor"),
        socket: socket(root.section("socket"), environment)?,
        monitoring,
    })
}

fn socket(section: Section<'_>, environment: &Environment) -> Result<Option<Socket>, Error> {
    let path = absolute(Path::new(section.text("path").unwrap_or(DEFAULT_SOCKET)), environment);
    let mode = match section.int("permissions") {
        None => SOCKET_MODE,
        Some(mode) => u32::try_from(mode).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            let reason = "must be permissions, written in octal as in 0600";
            Error::field("socket.permissions", reason, &mode.to_string())
        })?,
    };
    Ok(section.bool("enabled").unwrap_or(false).then_some(Socket { path, mode }))
}

fn levels(root: Section<'_>) -> Result<(), Error> {
    /// Level 0 takes what is captured, level 9 snapshots.
    const MOST: usize = 8;
    let levels = root.sections("levels").unwrap_or_default();
    for (index, level) in levels.iter().enumerate() {
        let nanos = level.duration("interval").unwrap_or(0);
        above_zero(&format!("levels[{index}].interval"), "compaction interval must be greater than 0", Some(nanos))?;
    }
    if levels.len() > MOST {
        return Err(Error::field("levels", "at most 8 compaction levels are possible", &levels.len().to_string()));
    }
    Ok(())
}

/// Checks a `snapshot` map; `prefix` tells which one.
pub(crate) fn snapshots(section: Section<'_>, prefix: &str) -> Result<(), Error> {
    let (interval, retention) = (section.duration("interval"), section.duration("retention"));
    above_zero(&format!("{prefix}snapshot.interval"), "snapshot interval must be greater than 0", interval)?;
    above_zero(&format!("{prefix}snapshot.retention"), "snapshot retention must be greater than 0", retention)
}

pub(crate) fn above_zero(field: &str, reason: &str, nanos: Option<i64>) -> Result<(), Error> {
    match nanos {
        Some(nanos) if nanos <= 0 => Err(Error::field(field, reason, &show(nanos))),
        _ => Ok(()),
    }
}

pub(crate) fn at_least_zero(field: &str, reason: &str, nanos: Option<i64>) -> Result<(), Error> {
    match nanos {
        Some(nanos) if nanos < 0 => Err(Error::field(field, reason, &show(nanos))),
        _ => Ok(()),
    }
}

/// The duration, if it is given and not negative.
pub(crate) fn positive(nanos: Option<i64>) -> Option<Duration> {
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos)
}
