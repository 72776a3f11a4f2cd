//! Looking at databases and replicas without changing anything.

use super::error::CliError;
use super::{Context, DatabasesOptions, GenerationsOptions, LtxOptions};

/// Lists the databases of the config.
pub(crate) fn databases(_options: &DatabasesOptions, _context: &Context) -> Result<(), CliError> {
    Err(CliError::not_available("databases"))
}

/// Lists generations with their lag and time range.
pub(crate) fn generations(_options: &GenerationsOptions, _context: &Context) -> Result<(), CliError> {
    Err(CliError::not_available("generations"))
}

/// Lists the segments of a replica.
pub(crate) fn ltx(_options: &LtxOptions, _context: &Context) -> Result<(), CliError> {
    Err(CliError::not_available("ltx"))
}
