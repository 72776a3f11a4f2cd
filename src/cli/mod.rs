//! The terminal: which command, with what options, what it prints, how it ends.
//!
//! Always true: exit code 0 or 1, nothing else, unless the code of a child process
//! was asked for, or by `check`, which speaks to monitoring systems. A failure prints `Error: ` and the
//! reason on stderr, sometimes a second line `Try: ` with a command that works,
//! and nothing on stdout, with two exceptions: flags that cannot be read also
//! print the command's help on stdout, as scripts have come to expect, and a
//! command that examines something prints what it found.

mod audit;
mod check;
mod commands;
mod completion;
mod directories;
mod doctor;
mod drill;
mod error;
mod flags;
mod help;
mod info;
mod inspect;
mod listing;
mod log;
mod manual;
mod observe;
mod older;
mod once;
mod open;
mod options;
mod pin;
mod prune;
mod quote;
mod remote;
mod render;
mod replicate;
mod reset;
mod restore;
mod settings;
mod status;
mod values;
mod version;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use tokio::runtime::Runtime;

use crate::audit::Scope;
use commands::Matches;
use flags::FlagError;

pub use completion::Shell;
pub use error::CliError;
pub use options::{
    Ask, AuditOptions, CheckOptions, ConfigFlags, DatabasesOptions, DoctorOptions, DrillOptions, GenerationsOptions,
    InfoJob, InfoOptions, Job, LtxOptions, Order, PinAction, PinOptions, PruneOptions, ReplicateOptions, ResetOptions,
    RestoreAllOptions, RestoreJob, RestoreOptions, Source, StatusOptions, VersionOptions, WalOptions,
};
pub use settings::{Context, Subject};
pub use values::Levels;

/// Runs the command named by the words of the command line.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let mut words = words.into_iter();
    let context = Context { program: program_name(words.next()) };
    let outcome = words
        .map(|word| {
            word.into_string()
                .map_err(|word| CliError::usage(format!("argument {} is not valid UTF-8", word.to_string_lossy())))
        })
        .collect::<Result<Vec<String>, CliError>>()
        .and_then(|words| run(&words, &context));
    match outcome {
        Ok(code) => code,
        // Whoever closed the pipe has seen enough.
        Err(CliError::ReaderGone) => ExitCode::SUCCESS,
        Err(error) => {
            render::complain(&format!("Error: {error}"));
            if let Some(hint) = error.hint() {
                render::complain(&format!("Try: {hint}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(words: &[String], context: &Context) -> Result<ExitCode, CliError> {
    let program = &context.program;
    let Some((name, words)) = words.split_first() else {
        render::print(&help::overview(program))?;
        return Ok(ExitCode::FAILURE);
    };
    match name.as_str() {
        "help" | "-h" | "-help" | "--help" | "--h" => {
            let command = words.first().and_then(|name| commands::find(name));
            render::print(&command.map_or_else(|| help::overview(program), |command| help::of(&command, program)))?;
            return Ok(ExitCode::SUCCESS);
        }
        option if option.starts_with('-') => {
            render::print(&help::overview(program))?;
            return Ok(ExitCode::FAILURE);
        }
        _ => {}
    }
    let Some(command) = commands::find(name) else {
        return Err(CliError::UnknownCommand { program: program.clone(), command: name.clone() });
    };
    let command_name = command.get_name().to_owned();
    // A command of ours alone, so no script relies on the path ending the flags.
    let words = if command_name == "wait" { commands::path_last(&command, words) } else { words.to_vec() };
    let matches = match Matches::parse(command.clone(), &words) {
        Ok(matches) => matches,
        Err(FlagError::Help) => {
            render::print(&help::of(&command, program))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            let reason = error.to_string();
            if name == "check" {
                return Ok(check::run(Err(CliError::Flags { reason }), context));
            }
            render::complain(&reason);
            render::print(&help::of(&command, program))?;
            return Err(CliError::Flags { reason });
        }
    };
    match command_name.as_str() {
        "audit" => return audit::run(&options::audit(&matches, program)?, Scope::All, context),
        "verify" => return audit::run(&options::audit(&matches, program)?, Scope::Chain, context),
        "check" => return Ok(check::run(options::check(&matches), context)),
        "completion" => render::print(&completion::script(options::completion(&matches, program)?, program)),
        "databases" => inspect::databases(&options::databases(&matches)?, context),
        "doctor" => doctor::run(&options::doctor(&matches)?, context),
        "drill" => return drill::run(&options::drill(&matches, program)?, context),
        "generations" => listing::generations(&options::generations(&matches, program)?, context),
        "info" => match options::info(&matches, program)? {
            InfoJob::Daemon(ask) => remote::run(&Order::Info, &ask, context),
            InfoJob::Replicas(options) => info::run(&options, context),
        },
        "list" | "register" | "reload" | "start" | "stop" | "sync" | "unregister" | "wait" => {
            let (order, ask) = options::order(&matches, &command_name, program)?;
            remote::run(&order, &ask, context)
        }
        "status" => status::run(&options::status(&matches)?, context),
        "reset" => reset::run(&options::reset(&matches, program)?, context),
        "ltx" => listing::ltx(&options::ltx(&matches, program)?, context),
        "man" => options::man(&matches).and_then(|()| render::print(&manual::page(program))),
        "pin" => pin::run(&options::pin(&matches, program, SystemTime::now().into())?, context),
        "prune" => prune::run(&options::prune(&matches, program)?, context),
        "replicate" => replicate::run(&options::replicate(&matches)?, context),
        "restore" => restore::run(&options::restore(&matches, program, SystemTime::now().into())?, context),
        "snapshots" => older::snapshots(&options::snapshots(&matches, program)?, context),
        "wal" => older::wal(&options::wal(&matches, program)?, context),
        "version" => version::run(options::version(&matches)),
        other => unreachable!("{other} is declared but not dispatched"),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// What runs requests of commands that are not the daemon.
fn runtime() -> Result<Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| CliError::failed(format!("cannot start threads: {error}")))
}

/// The base name of the first word: the binary may be installed as `litestream`.
fn program_name(word: Option<OsString>) -> String {
    word.as_deref()
        .and_then(|word| Path::new(word).file_stem())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}
