//! The commands that need neither a replica nor the daemon.

use clap::Command;

use super::arguments::{command, config_flags, json, switch};

pub(super) fn completion() -> Command {
    command("completion", "print a script that completes command lines")
        .long_about(
            "The completion command prints a script that teaches a shell to complete the\n\
             commands and flags of the program: bash, zsh or fish.",
        )
        .override_usage("[arguments] SHELL")
        .after_help(
            "$ PROGRAM completion bash > /usr/share/bash-completion/completions/PROGRAM\n\
             $ PROGRAM completion zsh > /usr/share/zsh/site-functions/_PROGRAM\n\
             $ PROGRAM completion fish > /usr/share/fish/vendor_completions.d/PROGRAM.fish",
        )
}

pub(super) fn databases() -> Command {
    command("databases", "list databases specified in config file")
        .long_about("The databases command lists all databases in the configuration file.")
        .args(config_flags())
        .arg(json())
        .override_usage("[arguments]")
        .after_help("$ PROGRAM databases\n$ PROGRAM databases -config /path/to/litestream.yml")
}

pub(super) fn man() -> Command {
    command("man", "print the manual page")
        .long_about("The man command prints the manual page, as the man program reads it.")
        .override_usage("[arguments]")
        .after_help("$ PROGRAM man > /usr/share/man/man1/PROGRAM.1\n$ PROGRAM man | man -l -")
}

pub(super) fn reset() -> Command {
    command("reset", "delete the local state of a database")
        .long_about(
            "The reset command deletes what this machine remembers about a database, never the\n\
             database itself nor anything on a replica. Replication then begins a new generation\n\
             with a fresh copy of the database. The daemon must not be following it: stop it first.",
        )
        .args(config_flags())
        .arg(switch("dry-run", "Print what would be deleted, and delete nothing."))
        .override_usage("[arguments] DB_PATH")
        .after_help("$ PROGRAM reset /path/to/db\n$ PROGRAM reset -dry-run /path/to/db")
}

pub(super) fn version() -> Command {
    command("version", "prints the binary version")
        .long_about("Prints the version.")
        .arg(switch("verbose", "Print details of the build as well."))
        .override_usage("[arguments]")
}
