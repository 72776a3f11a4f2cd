//! The application that runs as our child (`-exec`).
//!
//! Replication goes on for as long as it lives: only when it has ended is
//! anything closed, so its last commit is captured and uploaded whatever it ends
//! with. What asks us to stop is passed on to it, and it is waited for without
//! limit; so are SIGUSR1 and SIGUSR2, which mean nothing to us.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal as Number, kill_process};
use tokio::process::{Child as Process, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::shell_words;
use super::signals::{Signals, Stop};
use crate::cli::error::CliError;
use crate::config::Environment;

/// A program and its arguments; the first word is there.
#[derive(Debug)]
pub(super) struct CommandLine(Vec<String>);

impl CommandLine {
    /// Takes the words of `-exec` apart, and says what of them is not used.
    pub(super) fn parse(text: &str) -> Result<Self, CliError> {
        let found = shell_words::split(text)
            .map_err(|reason| CliError::usage(format!("cannot parse exec command: {reason}")))?;
        if !found.dropped.is_empty() {
            tracing::warn!(
                dropped = found.dropped,
                "no shell reads the exec command: use sh -c '...' for what a shell does"
            );
        }
        Ok(Self(found.words))
    }
}

/// How the application lived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    ended: ExitStatus,
    /// We were asked to stop before it ended.
    asked: bool,
}

/// The running application.
pub(super) struct Child {
    process: Process,
    first: Signal,
    second: Signal,
}

/// Says to whom it reports; not to be inherited, since it is us.
const OF_THE_SERVICE_MANAGER: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

impl Child {
    /// Starts it in our working directory and process group, with our output and
    /// without input.
    pub(super) fn start(
        CommandLine(words): &CommandLine,
        environment: &Environment,
        log_level: Option<&str>,
    ) -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::failed);
        let (first, second) = (listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?);
        let (program, arguments) = words.split_first().expect("a command line has a program");
        let mut command = Command::new(program);
        command.args(arguments).envs(&environment.variables).stdin(Stdio::null());
        if let Some(level) = log_level {
            command.env("LOG_LEVEL", level);
        }
        for name in OF_THE_SERVICE_MANAGER {
            command.env_remove(name);
        }
        let process = command
            .spawn()
            .map_err(|error| CliError::failed(format!("cannot start exec command: {program}: {error}")))?;
        Ok(Self { process, first, second })
    }

    /// Waits until it has ended, and passes on what comes meanwhile.
    pub(super) async fn live(mut self, signals: &mut Signals) -> Result<Life, CliError> {
        let mut asked = false;
        loop {
            let number = tokio::select! {
                ended = self.process.wait() => {
                    let ended = ended.map_err(|error| CliError::failed(format!("cannot wait for the exec command: {error}")))?;
                    return Ok(Life { ended, asked });
                }
                stop = signals.next() => {
                    log_stop(stop, asked);
                    asked = true;
                    stop.number()
                }
                _ = self.first.recv() => Number::USR1,
                _ = self.second.recv() => Number::USR2,
            };
            let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            // It may have ended by itself at this moment.
            let _ = pid.map(|pid| kill_process(pid, number));
        }
    }
}

fn log_stop(stop: Stop, again: bool) {
    let signal = stop.name();
    if again {
        tracing::warn!(signal, "signal received again: sent to exec process, which has not ended yet");
    } else {
        tracing::info!(signal, "sending signal to exec process");
    }
}

impl Life {
    /// What its end means for ours. An application that ended because we were
    /// asked to stop has done what it should.
    pub(super) fn verdict(self, pass_on: bool) -> Result<(), CliError> {
        let (outcome, code) = match (self.ended.code(), self.ended.signal()) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => (format!("exit status {code}"), code),
            (None, Some(_)) if self.asked && !pass_on => return Ok(()),
            (None, signal) => {
                let number = signal.unwrap_or_default();
                let core = if self.ended.core_dumped() { " (core dumped)" } else { "" };
                // As shells do.
                (format!("signal: {}{core}", name_of(number)), 128 + number)
            }
        };
        let code = if pass_on { u8::try_from(code).unwrap_or(1) } else { 1 };
        Err(CliError::Child { outcome, code })
    }
}

/// As Go calls them, whose words people look for in logs.
fn name_of(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_application_decides_ours() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw;
        let cases = [
            (exited(0), false, Ok(()), Ok(())),
            (exited(0), true, Ok(()), Ok(())),
            (exited(3), false, Err(("exit status 3", 1)), Err(("exit status 3", 3))),
            (exited(3), true, Err(("exit status 3", 1)), Err(("exit status 3", 3))),
            (killed(9), false, Err(("signal: killed", 1)), Err(("signal: killed", 137))),
            (killed(15), true, Ok(()), Err(("signal: terminated", 143))),
            (killed(11 | 0x80), true, Ok(()), Err(("signal: segmentation fault (core dumped)", 139))),
            (killed(34), false, Err(("signal: signal 34", 1)), Err(("signal: signal 34", 162))),
        ];
        for (ended, asked, plain, passed_on) in cases {
            for (pass_on, expected) in [(false, plain), (true, passed_on)] {
                let found = Life { ended, asked }.verdict(pass_on);
                let found = found.map_err(|error| (error.to_string(), error.exit_code()));
                let expected = expected.map_err(|(text, code): (&str, u8)| (text.to_owned(), code));
                assert_eq!(found, expected, "{ended} {asked} {pass_on}");
            }
        }
    }
}
