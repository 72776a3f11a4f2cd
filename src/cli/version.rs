//! `version`: what this binary is.

use super::VersionOptions;
use super::error::CliError;
use super::render;

/// The version, as scripts compare it: no leading `v`.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(options: VersionOptions) -> Result<(), CliError> {
    if !options.verbose {
        return render::print(&format!("{VERSION}\n"));
    }
    let lines = [
        ("Version:", VERSION.to_owned()),
        ("SQLite:", rusqlite::version().to_owned()),
        ("OS/Arch:", format!("{}/{}", std::env::consts::OS, arch())),
    ];
    // Values stand in column 14, where scripts cut them out.
    let text: String = lines.iter().map(|(label, value)| format!("{label:<12} {value}\n")).collect();
    render::print(&text)
}

/// The processor as Go names it, for scripts that choose downloads by it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}
