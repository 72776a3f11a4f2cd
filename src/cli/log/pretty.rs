//! Short lines for a person: `15:04:05 INF replicating to type=file`. Pure.

use tracing::Level;

use super::line::Line;
use super::text;

pub(super) fn render(line: &Line<'_>, colors: bool) -> String {
    let (name, color) = match line.level {
        Level::TRACE => ("TRC", "\x1b[2m"),
        Level::DEBUG => ("DBG", "\x1b[36m"),
        Level::INFO => ("INF", "\x1b[32m"),
        Level::WARN => ("WRN", "\x1b[33m"),
        Level::ERROR => ("ERR", "\x1b[31m"),
    };
    let (dim, color, off) = if colors { ("\x1b[2m", color, "\x1b[0m") } else { ("", "", "") };
    let time = line.time.strftime("%H:%M:%S");
    let mut out = format!("{dim}{time}{off} {color}{name}{off}");
    if let Some(source) = &line.source {
        out.push_str(&format!(" {dim}{}:{}{off}", source.file, source.line));
    }
    out.push_str(&format!(" {}", line.message));
    text::push_fields(&mut out, line);
    out.push('\n');
    out
}
