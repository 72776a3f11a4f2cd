//! What `restore` was asked for: one database or all of them, how far, and where to.
//!
//! Always true: with a URL there is an output, what cannot be streamed is not
//! asked of standard output, and what follows a database aims at its newest state.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ConfigFlags, Source, config_flags, generation, is_url, point, source, txid};
use crate::cli::commands::Matches;
use crate::cli::error::CliError;
use crate::config::shown_url;
use crate::restore::{IntegrityCheck, Older, Target};
use crate::types::Timestamp;

/// As in Litestream.
const DEFAULT_FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// As in Litestream 0.3, where it counted downloads of WAL files.
pub(super) const DEFAULT_PARALLELISM: usize = 8;

/// What to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreJob {
    /// One database.
    One(RestoreOptions),
    /// All databases of a config.
    All(RestoreAllOptions),
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
    if older != Older::default() && txid(matches).is_some() {
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
        target: point(matches, "timestamp", now)?,
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
    if let Some(flag) = refused.chain(txid(matches).map(|_| "txid")).next() {
        return Err(CliError::usage(format!("cannot specify -f with -{flag}: a database follows the newest state")));
    }
    match matches.duration("follow-interval").unwrap_or(DEFAULT_FOLLOW_INTERVAL) {
        Duration::ZERO => Err(CliError::usage("-follow-interval must be longer than 0")),
        interval => Ok(Some(interval)),
    }
}

/// The highest index is what Litestream 0.3 calls the latest.
fn index(matches: &Matches) -> Option<u32> {
    matches.get("index").filter(|index| *index < 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_refused, matches};
    use super::*;
    use crate::types::Txid;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn one(matches: &Matches) -> RestoreOptions {
        match restore(matches, "p", NOW).unwrap() {
            RestoreJob::One(options) => options,
            RestoreJob::All(_) => panic!("all"),
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_arguments() {
        assert_refused(
            &[
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
                (
                    "restore -f -timestamp now db",
                    "cannot specify -f with -timestamp: a database follows the newest state",
                ),
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
            ],
            |matches| restore(matches, "p", NOW),
        );
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
}
