//! What the definitions of commands are made of: the shape of a command, the
//! shapes of flags, and the flags that many commands share.
//!
//! Always true: each flag's value is checked by the function that is given here,
//! so that whoever asks for it finds it typed.

use std::path::PathBuf;

use clap::builder::{StringValueParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction, Command};

use crate::cli::values;

/// The arguments of a command that looks at a database or a replica.
pub(super) const DATABASE_OR_REPLICA: &str = "[arguments] DB_PATH\n[arguments] REPLICA_URL";

/// The positional words.
pub(super) const WORDS: &str = "words";

pub(super) fn command(name: &'static str, about: &'static str) -> Command {
    let words = Arg::new(WORDS).action(ArgAction::Append).num_args(0..).value_parser(text());
    Command::new(name).no_binary_name(true).disable_help_flag(true).disable_version_flag(true).about(about).arg(words)
}

pub(super) fn config_flags() -> [Arg; 2] {
    [
        value("config", "PATH", "Specifies the configuration file.\nDefaults to /etc/litestream.yml", path()),
        switch("no-expand-env", "Disables environment variable expansion in configuration file."),
    ]
}

/// For commands that ask the daemon. `timeout` is the default, in seconds.
pub(super) fn socket_flags(timeout: u32) -> [Arg; 5] {
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
        json(),
    ]
}

pub(super) fn json() -> Arg {
    switch("json", "Output raw JSON instead of human-readable text.")
}

/// The flag that leaves all replicas of a database but one aside.
pub(super) fn one_replica(help: &'static str) -> Arg {
    value("replica", "NAME", help, text())
}

pub(super) fn value(name: &'static str, placeholder: &'static str, help: &'static str, parser: ValueParser) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).help(help).value_parser(parser)
}

pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    // The canonical form always gives the value: `--name=true`.
    Arg::new(name).long(name).help(help).num_args(0..=1).value_parser(ValueParser::bool())
}

pub(super) fn parser<T: Clone + Send + Sync + 'static>(parse: fn(&str) -> Result<T, String>) -> ValueParser {
    ValueParser::new(parse)
}

pub(super) fn text() -> ValueParser {
    ValueParser::string()
}

pub(super) fn path() -> ValueParser {
    // Unlike clap's own, takes the empty text: `-config ""` means "not given".
    ValueParser::new(StringValueParser::new().map(PathBuf::from))
}
