//! Completion of command lines in shells, made from the command definitions so
//! that it cannot disagree with them. Pure: the text of a script.

use clap::Command;

use super::commands;

/// A shell for which there is a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    /// The shell of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "bash" => Some(Self::Bash),
            "zsh" => Some(Self::Zsh),
            "fish" => Some(Self::Fish),
            _ => None,
        }
    }
}

/// The script that teaches a shell how to complete the program's words.
pub(crate) fn script(shell: Shell, program: &str) -> String {
    let commands: Vec<Of> = commands::all().iter().map(Of::command).collect();
    match shell {
        Shell::Bash => bash(&commands, program),
        Shell::Zsh => zsh(&commands, program),
        Shell::Fish => fish(&commands, program),
    }
}

/// What there is to complete about a command.
struct Of {
    name: String,
    about: String,
    flags: Vec<Flag>,
}

struct Flag {
    name: String,
    /// The first sentence of its help, on one line.
    about: String,
    /// The name of its value; `None` for a switch.
    value: Option<String>,
}

impl Of {
    fn command(command: &Command) -> Self {
        let flags = commands::flags_of(command).map(|arg| Flag {
            name: arg.get_id().to_string(),
            about: first_sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default()),
            value: arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string),
        });
        Self {
            name: command.get_name().to_owned(),
            about: command.get_about().map(ToString::to_string).unwrap_or_default(),
            flags: flags.collect(),
        }
    }
}

fn first_sentence(help: &str) -> String {
    let line = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = line.find(". ").unwrap_or(line.len());
    line[..end].trim_end_matches('.').to_owned()
}

/// What `help` is for: the one command that is not in the list of them.
const HELP: &str = "show how a command is used";

/// A name for the function that is defined.
fn identifier(program: &str) -> String {
    program.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn bash(commands: &[Of], program: &str) -> String {
    let function = identifier(program);
    let names: Vec<&str> = commands.iter().map(|c| c.name.as_str()).chain(["help"]).collect();
    let mut text = format!(
        "# Completion of {program} for bash.\n\
         _{function}() {{\n\
         \x20   local word=${{COMP_WORDS[COMP_CWORD]}} flags=\n\
         \x20   COMPREPLY=()\n\
         \x20   if [ \"$COMP_CWORD\" -eq 1 ] || [ \"${{COMP_WORDS[1]}}\" = help ]; then\n\
         \x20       COMPREPLY=($(compgen -W '{}' -- \"$word\"))\n\
         \x20       return\n\
         \x20   fi\n\
         \x20   case ${{COMP_WORDS[1]}} in\n",
        names.join(" ")
    );
    for command in commands {
        let flags: Vec<String> = command.flags.iter().map(|flag| format!("-{}", flag.name)).collect();
        text.push_str(&format!("    {}) flags='{}' ;;\n", command.name, flags.join(" ")));
    }
    text.push_str(&format!(
        "    esac\n\
         \x20   case $word in\n\
         \x20   -*) COMPREPLY=($(compgen -W \"$flags\" -- \"$word\")) ;;\n\
         \x20   *)\n\
         \x20       local IFS=$'\\n'\n\
         \x20       COMPREPLY=($(compgen -f -- \"$word\"))\n\
         \x20       ;;\n\
         \x20   esac\n\
         }}\n\
         complete -o filenames -F _{function} {program}\n"
    ));
    text
}

fn zsh(commands: &[Of], program: &str) -> String {
    let function = identifier(program);
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let mut text = format!("#compdef {program}\n# Completion of {program} for zsh.\n_{function}() {{\n");
    text.push_str("    local -a commands\n    commands=(\n");
    for command in commands {
        text.push_str(&format!("        '{}:{}'\n", command.name, quoted(&command.about)));
    }
    text.push_str(&format!("        'help:{HELP}'\n"));
    text.push_str(
        "    )\n    if (( CURRENT == 2 )) || [[ $words[2] = help ]]; then\n        _describe command commands\n        return\n    fi\n    \
         case $words[2] in\n",
    );
    for command in commands {
        text.push_str(&format!("    {})\n        _arguments", command.name));
        for flag in &command.flags {
            let about = quoted(&flag.about).replace('[', "(").replace(']', ")").replace(':', "\\:");
            let value = flag.value.as_deref().map_or(String::new(), |value| match value {
                "PATH" => ":path:_files".to_owned(),
                other => format!(":{}: ", other.to_ascii_lowercase()),
            });
            text.push_str(&format!(" \\\n            '-{}[{about}]{value}'", flag.name));
        }
        text.push_str(" \\\n            '*:path:_files'\n        ;;\n");
    }
    text.push_str(&format!(
        "    esac\n}}\nif [ \"$funcstack[1]\" = _{function} ]; then\n    _{function}\nelse\n    compdef _{function} {program}\nfi\n"
    ));
    text
}

fn fish(commands: &[Of], program: &str) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut text = format!("# Completion of {program} for fish.\n");
    text.push_str(&format!("complete -c {program} -f -n __fish_use_subcommand -a help -d '{HELP}'\n"));
    for command in commands {
        let (name, about) = (&command.name, quoted(&command.about));
        for before in ["__fish_use_subcommand", "'__fish_seen_subcommand_from help'"] {
            text.push_str(&format!("complete -c {program} -f -n {before} -a {name} -d '{about}'\n"));
        }
        for flag in &command.flags {
            let value = match flag.value.as_deref() {
                None => "",
                Some("PATH") => " -r -F",
                Some(_) => " -x",
            };
            text.push_str(&format!(
                "complete -c {program} -n '__fish_seen_subcommand_from {name}' -o {}{value} -d '{}'\n",
                flag.name,
                quoted(&flag.about)
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_knows_every_command_and_flag() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = script(shell, "brooklet");
            for command in commands::all() {
                assert!(text.contains(command.get_name()), "{shell:?} {}", command.get_name());
                for flag in commands::flags_of(&command) {
                    let name = flag.get_id().as_str();
                    let known = text.contains(&format!("-{name}")) || text.contains(&format!("-o {name}"));
                    assert!(known, "{shell:?} {name}");
                }
            }
        }
    }

    #[test]
    fn what_a_flag_does_is_told_in_one_sentence() {
        assert_eq!(first_sentence("Specifies the file.\nDefaults to x"), "Specifies the file");
        assert_eq!(first_sentence("Lists v0.3 things,\nall of them."), "Lists v0.3 things, all of them");
        assert_eq!(first_sentence(""), "");
    }
}
