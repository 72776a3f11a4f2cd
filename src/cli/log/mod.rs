//! Log lines as Litestream writes them, because dashboards and scripts read them.
//!
//! Rooms log with `tracing` and know nothing of this. An event becomes one line:
//! time, level, message, then the fields of the spans around it from the outside
//! in, then its own. A dotted field name is a group. A field recorded with `?`
//! that is a [`std::time::Duration`] is shown as Go shows durations. A line that
//! cannot be written is lost: logging never stops the program.

mod json;
mod line;
mod pretty;
mod text;

use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use jiff::Zoned;
use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::config::{Environment, LogFormat, LogLevel, Logging};
use line::{Fields, Line, Source};

/// What to log with, from the strongest voice: the flag, `LOG_LEVEL`, the config.
/// A name that is no level means `info`, and comes back to be complained about.
pub(crate) fn choose(logging: Logging, flag: Option<&str>, environment: &Environment) -> (Logging, Option<String>) {
    let voices = [("-log-level", flag), ("LOG_LEVEL", environment.get("LOG_LEVEL"))];
    let Some((voice, name)) = voices.into_iter().find_map(|(voice, name)| Some((voice, name?))) else {
        return (logging, None);
    };
    match LogLevel::from_name(name) {
        Some(level) => (Logging { level, ..logging }, None),
        None => {
            let complaint = format!("{voice} is {name:?}, which is no level: using \"info\"");
            (Logging { level: LogLevel::Info, ..logging }, Some(complaint))
        }
    }
}

/// Starts logging for the rest of the process. Only the first call counts.
pub(crate) fn start(logging: Logging) {
    let colors = if logging.stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    let lines = Lines { logging, time_zone: TimeZone::system(), colors, write: write_line };
    drop(tracing::subscriber::set_global_default(Registry::default().with(lines)));
}

fn write_line(stderr: bool, line: &str) {
    let line = line.as_bytes();
    drop(if stderr { io::stderr().lock().write_all(line) } else { io::stdout().lock().write_all(line) });
}

/// The layer that turns events into lines.
struct Lines<W> {
    logging: Logging,
    time_zone: TimeZone,
    colors: bool,
    /// Takes whether the line is for stderr, and the line.
    write: W,
}

impl<W> Lines<W> {
    fn level(&self) -> LevelFilter {
        match self.logging.level {
            LogLevel::Trace => LevelFilter::TRACE,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error => LevelFilter::ERROR,
        }
    }

    fn render(&self, line: &Line<'_>) -> String {
        match self.logging.format {
            LogFormat::Text => text::render(line),
            LogFormat::Json => json::render(line),
            LogFormat::Pretty => pretty::render(line, self.colors),
        }
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(bool, &str) + 'static,
{
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries have their own idea of what is worth a line.
        let ours = metadata.target().starts_with(env!("CARGO_PKG_NAME"));
        *metadata.level() <= self.level() && (ours || *metadata.level() <= Level::WARN)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.extend(of_span);
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        let line = Line {
            time: Zoned::new(now, self.time_zone.clone()),
            level: *metadata.level(),
            source: self.logging.source.then(|| Source::of(metadata)),
            message: fields.take_message(),
            fields: &fields,
        };
        (self.write)(self.logging.stderr, &self.render(&line));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    /// The lines of what is logged in `log`, without their times.
    fn lines(logging: Logging, log: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let write = move |stderr: bool, line: &str| {
            assert_eq!(stderr, logging.stderr);
            sink.lock().unwrap().push(line.strip_suffix('\n').expect("a line ends").to_owned());
        };
        let layer = Lines { logging, time_zone: TimeZone::UTC, colors: false, write };
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        let lines = written.lock().unwrap().clone();
        let without_time = |line: &String| match logging.format {
            LogFormat::Text => line.split_once(' ').unwrap().1.to_owned(),
            LogFormat::Json => format!("{{{}", line.split_once(',').unwrap().1),
            LogFormat::Pretty => line[9..].to_owned(),
        };
        lines.iter().map(without_time).collect()
    }

    fn example() {
        let database = tracing::info_span!("database", system = "store", db = "a b.db");
        let _in = database.enter();
        tracing::info!(r#type = "file", "sync-interval" = ?Duration::from_secs(90), path = %"/tmp/rep", "replicating to");
        tracing::info!(txid.replica = "0000000000000001", txid.db = 2u64, ok = true, "replica sync");
    }

    #[test]
    fn text_lines_are_those_of_the_original() {
        let expected = [
            "level=INFO msg=\"replicating to\" system=store db=\"a b.db\" type=file sync-interval=1m30s path=/tmp/rep",
            "level=INFO msg=\"replica sync\" system=store db=\"a b.db\" txid.replica=0000000000000001 txid.db=2 ok=true",
        ];
        assert_eq!(lines(Logging::default(), example), expected);
    }

    #[test]
    fn json_lines_nest_groups_and_count_nanoseconds() {
        let logging = Logging { format: LogFormat::Json, ..Logging::default() };
        let expected = [
            r#"{"level":"INFO","msg":"replicating to","system":"store","db":"a b.db","type":"file","sync-interval":90000000000,"path":"/tmp/rep"}"#,
            r#"{"level":"INFO","msg":"replica sync","system":"store","db":"a b.db","txid":{"replica":"0000000000000001","db":2},"ok":true}"#,
        ];
        assert_eq!(lines(logging, example), expected);
    }

    #[test]
    fn pretty_lines_are_short() {
        let logging = Logging { format: LogFormat::Pretty, stderr: true, ..Logging::default() };
        let expected = [
            "INF replicating to system=store db=\"a b.db\" type=file sync-interval=1m30s path=/tmp/rep",
            "INF replica sync system=store db=\"a b.db\" txid.replica=0000000000000001 txid.db=2 ok=true",
        ];
        assert_eq!(lines(logging, example), expected);
    }

    #[test]
    fn levels_are_filtered() {
        let log = || {
            tracing::trace!("t");
            tracing::debug!("d");
            tracing::info!("i");
            tracing::warn!("w");
            tracing::error!("e");
        };
        let at = |level| lines(Logging { level, ..Logging::default() }, log).len();
        assert_eq!(at(LogLevel::Trace), 5);
        assert_eq!(at(LogLevel::Info), 3);
        assert_eq!(at(LogLevel::Error), 1);
        let levels = lines(Logging { level: LogLevel::Trace, ..Logging::default() }, log);
        let expected = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
        for (line, level) in levels.iter().zip(expected) {
            assert!(line.starts_with(&format!("level={level} msg=")), "{line}");
        }
        let library = lines(Logging { level: LogLevel::Trace, ..Logging::default() }, || {
            tracing::info!(target: "hyper::client", "chatter");
            tracing::warn!(target: "hyper::client", "trouble");
        });
        assert_eq!(library, ["level=WARN msg=trouble"]);
    }

    #[test]
    fn the_source_can_be_told() {
        let log = || tracing::info!("x");
        let line = &lines(Logging { source: true, ..Logging::default() }, log)[0];
        assert!(line.starts_with("level=INFO source=mod.rs:"), "{line}");
        let json = Logging { source: true, format: LogFormat::Json, ..Logging::default() };
        let line = &lines(json, log)[0];
        let start = r#"{"level":"INFO","source":{"function":"brooklet::cli::log::tests","file":"mod.rs","line":"#;
        assert!(line.starts_with(start), "{line}");
    }

    #[test]
    fn the_flag_beats_the_variable_beats_the_config() {
        let env = |level: &str| {
            let variables = [("LOG_LEVEL".to_owned(), level.to_owned())].into();
            Environment { variables, ..Environment::default() }
        };
        let config = Logging { level: LogLevel::Warn, ..Logging::default() };
        let level = |flag, env: &Environment| choose(config, flag, env).0.level;
        assert_eq!(level(None, &env("")), LogLevel::Warn);
        assert_eq!(level(None, &env("DEBUG")), LogLevel::Debug);
        assert_eq!(level(Some("trace"), &env("debug")), LogLevel::Trace);
        let (logging, complaint) = choose(config, Some("loud"), &env("debug"));
        assert_eq!(logging.level, LogLevel::Info);
        assert_eq!(complaint.unwrap(), "-log-level is \"loud\", which is no level: using \"info\"");
    }
}
