//! The manual: one page for `man`, and the reference in `docs/commands.md`, both
//! made from the command definitions. Pure.

use clap::Command;

use super::commands;
#[cfg(test)]
use super::help;

/// What is not said by any command.
const EXIT_STATUS: &str = "\
0: what was asked is done. For replicate: every captured commit is on every replica.\n\
1: anything else; the reason is on standard error after \"Error: \".\n\
With replicate -exec-exit-code, the exit code of the application if that is not 0.";

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGINT, SIGTERM, SIGQUIT",
        "Stop: capture what is committed, upload it within shutdown-sync-timeout, and end. With -exec, the same signal is \
         sent to the application, and the end of the application is waited for first. A second signal during the last \
         upload ends the program at once; what is not uploaded stays in the local state.",
    ),
    ("SIGUSR1, SIGUSR2", "With -exec: sent to the application."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("LITESTREAM_CONFIG", "The configuration file, if -config is not given."),
    (
        "LITESTREAM_ACCESS_KEY_ID, LITESTREAM_SECRET_ACCESS_KEY",
        "Credentials for S3. The application of -exec sees them under their names of AWS, too.",
    ),
    ("LOG_LEVEL", "The log level; beats the configuration file."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by service managers such as systemd."),
];

const FILES: &[(&str, &str)] = &[
    ("/etc/litestream.yml", "The configuration."),
    (".DATABASE-litestream", "Local state, beside each database, or where its meta-path says."),
];

/// The page for `man`, in roff.
pub(crate) fn page(program: &str) -> String {
    let mut page = Roff(format!(
        ".TH {} 1 \"\" \"{program} {}\" \"User Commands\"\n",
        program.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    ));
    page.section("NAME");
    page.paragraph(&format!("{program} - replicates SQLite databases and restores them to any kept moment"));
    page.section("SYNOPSIS");
    page.lines(&format!("{program} COMMAND [arguments]"));
    page.section("DESCRIPTION");
    page.paragraph(&format!(
        "{program} runs beside an application, streams every commit of its SQLite databases to replicas, and restores them. \
         Each flag may be written with one or two dashes, and its value as the next word or after \"=\"; a switch takes a \
         value only after \"=\". Flags stand before the other arguments."
    ));
    page.section("COMMANDS");
    for command in commands::all() {
        page.command(&command, program);
    }
    page.section("EXIT STATUS");
    page.lines(EXIT_STATUS);
    for (title, entries) in [("SIGNALS", SIGNALS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)] {
        page.section(title);
        entries.iter().for_each(|(term, text)| page.entry(term, text));
    }
    page.0
}

/// Text that is being written for `man`.
struct Roff(String);

impl Roff {
    fn section(&mut self, title: &str) {
        self.0.push_str(&format!(".SH {title}\n"));
    }

    fn paragraph(&mut self, text: &str) {
        self.0.push_str(".PP\n");
        text.lines().for_each(|line| self.line(line));
    }

    /// Each line stays one.
    fn lines(&mut self, text: &str) {
        self.0.push_str(".nf\n");
        text.lines().for_each(|line| self.line(line));
        self.0.push_str(".fi\n");
    }

    fn entry(&mut self, term: &str, text: &str) {
        self.0.push_str(".TP\n\\fB");
        self.line(term);
        // On its own line, so that a leading dot of the term needs no care.
        self.0.truncate(self.0.len() - 1);
        self.0.push_str("\\fR\n");
        text.lines().for_each(|line| self.line(line));
    }

    fn command(&mut self, command: &Command, program: &str) {
        self.0.push_str(&format!(".SS {}\n", command.get_name()));
        self.paragraph(&command.get_long_about().map(ToString::to_string).unwrap_or_default());
        let usage = command.get_overridden_usage().map(ToString::to_string).unwrap_or_default();
        let usage: Vec<String> = usage.lines().map(|line| format!("{program} {} {line}", command.get_name())).collect();
        self.0.push_str(".PP\n");
        self.lines(&usage.join("\n"));
        for flag in commands::flags_of(command) {
            let value = flag.get_value_names().and_then(|names| names.first());
            let term = value.map_or(format!("-{}", flag.get_id()), |value| format!("-{} {value}", flag.get_id()));
            self.entry(&term, &flag.get_help().map(ToString::to_string).unwrap_or_default());
        }
        if let Some(examples) = command.get_after_help() {
            self.paragraph("Examples:");
            self.lines(&examples.to_string().replace("PROGRAM", program));
        }
    }

    /// Text as text: no word of it is a request to the formatter.
    fn line(&mut self, text: &str) {
        let text = text.replace('\\', "\\e").replace('-', "\\-");
        if text.starts_with(['.', '\'']) {
            self.0.push_str("\\&");
        }
        self.0.push_str(&text);
        self.0.push('\n');
    }
}

/// The reference, in Markdown.
#[cfg(test)]
fn reference() -> String {
    let mut text = "# Commands\n\n\
         What `brooklet help COMMAND` says. This page is made from the same definitions: a test holds it against them, and\n\
         `BROOKLET_WRITE_DOCS=1 cargo test --lib the_reference` writes it anew.\n\n\
         Every flag may be written with one or two dashes, and its value as the next word or after `=`. Switches take a value\n\
         only after `=`. Flags stand before the other arguments. The exit code is 0, or 1 with the reason on stderr.\n"
        .to_owned();
    for command in commands::all() {
        let help = help::of(&command, "brooklet").replace('\t', "    ");
        text.push_str(&format!("\n## {}\n\n```text\n{}\n```\n", command.get_name(), help.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_the_documents_is_what_help_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
        if std::env::var_os("BROOKLET_WRITE_DOCS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let same = found == reference();
        assert!(same, "docs/commands.md is out of date: BROOKLET_WRITE_DOCS=1 cargo test --lib the_reference");
    }

    #[test]
    fn the_page_tells_every_command_and_flag() {
        let page = page("brooklet");
        for command in commands::all() {
            assert!(page.contains(&format!("\n.SS {}\n", command.get_name())), "{}", command.get_name());
            for flag in commands::flags_of(&command) {
                let term = format!("\n\\fB\\-{}", flag.get_id().as_str().replace('-', "\\-"));
                assert!(page.contains(&term), "{term}");
            }
        }
        // Nothing in a help text is taken for a request.
        let requests = [".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi"];
        let odd = page.lines().filter(|line| line.starts_with('.') && !requests.iter().any(|r| line.starts_with(r)));
        assert_eq!(odd.collect::<Vec<_>>(), [""; 0]);
    }
}
