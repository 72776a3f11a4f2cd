//! `replicate`: run the daemon until told to stop.

use super::error::CliError;
use super::{Context, ReplicateOptions};

/// Runs until a signal, or once.
pub(crate) fn run(_options: &ReplicateOptions, _context: &Context) -> Result<(), CliError> {
    Err(CliError::not_available("replicate"))
}
