//! What asks the process to stop.
//!
//! Once [`Signals`] exists, none of these ends the process by itself any more:
//! whoever holds it decides. SIGQUIT is one of them because images of other
//! programs say `STOPSIGNAL SIGQUIT`.

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::error::CliError;

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// What containers and service managers send.
    Terminate,
    /// What some images ask containers to send instead.
    Quit,
}

impl Stop {
    /// As it is called in the log.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminated",
            Self::Quit => "quit",
        }
    }

    pub(super) fn number(self) -> Number {
        match self {
            Self::Interrupt => Number::INT,
            Self::Terminate => Number::TERM,
            Self::Quit => Number::QUIT,
        }
    }
}

/// Listens for requests to stop.
pub(in crate::cli) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
}

impl Signals {
    pub(in crate::cli) fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::failed);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for the next one. One that came earlier and was not waited for is not lost.
    pub(in crate::cli) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.quit.recv() => Stop::Quit,
        }
    }
}
