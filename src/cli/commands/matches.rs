//! The words after a command's name, as typed values.
//!
//! clap checks the values; the words reach it in the one canonical form that
//! `flags` makes of them, so none of clap's own grammar (short flags,
//! abbreviations, `-h`) is ever in play, and complaints read as Go's do.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command};

use super::arguments::WORDS;
use super::flags_of;
use crate::cli::flags::{self, FlagError, Kind};
use crate::cli::quote::quote;

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

fn is_switch(arg: &Arg) -> bool {
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
    use super::super::find;
    use super::*;

    fn reason(command: &str, words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        match Matches::parse(find(command).unwrap(), &words) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
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
