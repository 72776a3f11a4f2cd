//! What a command can fail with, as the person at the terminal reads it.
//!
//! The text goes to stderr after `Error: `; a hint follows on its own line after
//! `Try: `. Every failure is exit code 1, except that of a child process whose
//! code was asked for. Rooms state facts; a command that fails
//! because of one wraps it in [`CliError::Failed`], which prints the causes too.

use std::error::Error;
use std::io;

use crate::causes::with_causes;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The first word names no command.
    #[error("{program} {command}: unknown command")]
    UnknownCommand {
        /// The program's name as it was called.
        program: String,
        /// The word.
        command: String,
    },
    /// The flags could not be read; the help text has been shown.
    #[error("{reason}")]
    Flags {
        /// The reason, spelled as Go spells it.
        reason: String,
    },
    /// The arguments make no sense together.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// A complete command to try instead.
        hint: Option<String>,
    },
    /// The option is known, its feature is not part of this build.
    #[error("{what} is not available in this version")]
    NotAvailable {
        /// The option or command.
        what: String,
    },
    /// A room reported an error.
    #[error("{}", with_causes(.0.as_ref()))]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// A room reported an error, and there is a command that may do better.
    #[error("{}", with_causes(.error.as_ref()))]
    FailedBut {
        /// The error.
        #[source]
        error: Box<dyn Error + Send + Sync>,
        /// A complete command to try instead.
        hint: String,
    },
    /// The child process ended badly. Its own output says why.
    #[error("{outcome}")]
    Child {
        /// How, as Go spells it.
        outcome: String,
        /// What to exit with.
        code: u8,
    },
    /// The command's output could not be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// Nobody reads the output any more (`... | head`). Not worth a message.
    #[error("the reader of the output is gone")]
    ReaderGone,
}

impl CliError {
    /// Wraps an error of a room.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// Wraps an error of a room together with a complete command to try instead.
    pub fn failed_but(error: impl Into<Box<dyn Error + Send + Sync>>, hint: impl Into<String>) -> Self {
        Self::FailedBut { error: error.into(), hint: hint.into() }
    }

    /// Arguments that make no sense together.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// A known option whose feature is not part of this build.
    pub fn not_available(what: impl Into<String>) -> Self {
        Self::NotAvailable { what: what.into() }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Child { code, .. } => *code,
            _ => 1,
        }
    }

    /// A complete command to try instead, if there is one worth showing.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } => hint.as_deref(),
            Self::FailedBut { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the box")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let error = CliError::failed(Outer(io::Error::other("the key is lost")));
        assert_eq!(error.to_string(), "cannot open the box: the key is lost");
        let error = CliError::failed("plain text");
        assert_eq!(error.to_string(), "plain text");
    }
}
