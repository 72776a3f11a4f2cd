//! Help texts, made from the command definitions so that they cannot disagree.
//! Pure. The shape is the one people know from Litestream.

use clap::Command;

use super::commands;

/// The overview: what the program is, and its commands.
pub(crate) fn overview(program: &str) -> String {
    let commands = commands::all();
    let width = commands.iter().map(|command| command.get_name().len()).max().unwrap_or(0);
    let mut text = format!(
        "{program} replicates SQLite databases and restores them to any kept moment.\n\n\
         Usage:\n\n\t{program} <command> [arguments]\n\nThe commands are:\n\n"
    );
    for command in &commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("\t{:<width$}    {about}\n", command.get_name()));
    }
    text.push_str(&format!("\nUse \"{program} <command> -h\" for the arguments of a command.\n"));
    text
}

/// The help of one command.
pub(crate) fn of(command: &Command, program: &str) -> String {
    let name = command.get_name();
    let mut text = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    text.push_str("\n\nUsage:\n");
    let usage = command.get_overridden_usage().map(ToString::to_string).unwrap_or_default();
    for line in usage.lines() {
        text.push_str(&format!("\n\t{program} {name} {line}\n"));
    }
    if commands::flags_of(command).next().is_some() {
        text.push_str("\nArguments:\n");
    }
    for arg in commands::flags_of(command) {
        text.push_str(&format!("\n\t-{}", arg.get_id()));
        for placeholder in arg.get_value_names().unwrap_or_default() {
            text.push_str(&format!(" {placeholder}"));
        }
        text.push('\n');
        for line in arg.get_help().map(ToString::to_string).unwrap_or_default().lines() {
            text.push_str(&format!("\t    {line}\n"));
        }
    }
    if let Some(examples) = command.get_after_help() {
        text.push_str("\nExamples:\n\n");
        for line in examples.to_string().replace("PROGRAM", program).lines() {
            text.push_str(if line.is_empty() { "" } else { "\t" });
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_flag_once() {
        for command in commands::all() {
            let text = of(&command, "litestream");
            for arg in commands::flags_of(&command) {
                let line = format!("\n\t-{}", arg.get_id());
                let hits = text.match_indices(&line).filter(|(at, _)| text[at + line.len()..].starts_with([' ', '\n']));
                assert_eq!(hits.count(), 1, "{line} of {}", command.get_name());
            }
            assert!(!text.contains("PROGRAM"));
            assert!(text.contains(&format!("\tlitestream {} [arguments]", command.get_name())));
        }
    }

    #[test]
    fn the_overview_lists_commands_in_order() {
        let text = overview("brooklet");
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix('\t')?.split("  ").next()).skip(1).collect();
        let expected = [
            "audit",
            "check",
            "completion",
            "databases",
            "doctor",
            "drill",
            "generations",
            "info",
            "list",
            "ltx",
            "man",
            "pin",
            "prune",
            "register",
            "reload",
            "replicate",
            "reset",
            "restore",
            "snapshots",
            "start",
            "status",
            "stop",
            "sync",
            "unregister",
            "verify",
            "version",
            "wait",
        ];
        assert_eq!(names, expected);
    }
}
