//! The commands: their flags, the types of their values, their help.
//!
//! clap holds the definitions; the files here are grouped by what the commands
//! deal with, as `options` is, which gives the values their meaning.

mod arguments;
mod daemon;
mod examine;
mod history;
mod local;
mod matches;
mod replicate;
mod restore;
mod retention;

use clap::{Arg, Command};

use daemon::{list, register, reload, start, status, stop, sync, unregister, wait};
use examine::{audit, check, doctor, drill, verify};
use history::{generations, info, ltx, snapshots, wal};
use local::{completion, databases, man, reset, version};
use replicate::replicate;
use restore::restore;
use retention::{pin, prune};

pub(crate) use matches::{Matches, path_last};

/// Every command, in the order of the help text.
pub(crate) fn all() -> Vec<Command> {
    vec![
        audit(),
        check(),
        completion(),
        databases(),
        doctor(),
        drill(),
        generations(),
        info(),
        list(),
        ltx(),
        man(),
        pin(),
        prune(),
        register(),
        reload(),
        replicate(),
        reset(),
        restore(),
        snapshots(),
        start(),
        status(),
        stop(),
        sync(),
        unregister(),
        verify(),
        version(),
        wait(),
    ]
}

/// The command of that name. `wal` is not in the overview: `ltx` has taken its place.
pub(crate) fn find(name: &str) -> Option<Command> {
    all().into_iter().chain([wal()]).find(|command| command.get_name() == name)
}

/// The flags of a command, without its positional words.
pub(crate) fn flags_of(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_positional())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sound() {
        for command in all() {
            command.debug_assert();
        }
        wal().debug_assert();
        assert_eq!(find("wal").unwrap().get_name(), "wal");
        assert!(find("foo").is_none());
    }
}
