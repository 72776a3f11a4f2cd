//! Why there are no settings to work with.

use std::io;
use std::path::PathBuf;

/// Why a config cannot be used. The texts are those that scripts know.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file at the path that was given, or at the default one.
    #[error("config file not found: {}", .path.display())]
    NotFound {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("cannot read config file {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The text is not YAML.
    #[error("yaml: {reason}")]
    Syntax {
        /// The parser's words, with the place.
        reason: String,
    },
    /// Values have the wrong types.
    #[error("yaml: unmarshal errors:\n  {}", .problems.join("\n  "))]
    Types {
        /// One for each value.
        problems: Vec<String>,
    },
    /// The values make no sense.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, and with which key.
        reason: String,
    },
    /// The config asks for something that is not part of this build.
    #[error("{reason}")]
    NotBuilt {
        /// What it asks for, and what to do instead.
        reason: String,
    },
    /// The path given on the command line is not among the databases.
    #[error("database not found in config: {}", .path.display())]
    UnknownDatabase {
        /// The absolute path that was looked for.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    /// The shape of errors about one field.
    pub(crate) fn field(field: &str, reason: &str, got: &str) -> Self {
        Self::Invalid { reason: format!("{field}: {reason} (got {got})") }
    }
}
