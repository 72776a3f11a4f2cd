//! From what is known to one state and its lines. Pure.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cli::error::CliError;

/// A state as monitoring systems know it; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// What is known to be bad is worse than what is not known.
    fn weight(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Unknown => 2,
            Self::Critical => 3,
        }
    }
}

/// From which lag on something is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Thresholds {
    pub(super) warning: Option<Duration>,
    pub(super) critical: Option<Duration>,
}

impl Thresholds {
    pub(super) fn of(self, lag: f64) -> State {
        let over = |limit: Option<Duration>| limit.is_some_and(|limit| lag > limit.as_secs_f64());
        match (over(self.critical), over(self.warning)) {
            (true, _) => State::Critical,
            (false, true) => State::Warning,
            (false, false) => State::Ok,
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) state: State,
    pub(super) text: String,
}

impl Line {
    pub(super) fn new(state: State, text: impl Into<String>) -> Self {
        Self { state, text: text.into() }
    }
}

/// What comes out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    lines: Vec<Line>,
    /// What to say if all is well.
    well: String,
    performance: Vec<String>,
}

impl Outcome {
    pub(super) fn new(mut lines: Vec<Line>) -> Self {
        lines.sort_by_key(|line| std::cmp::Reverse(line.state.weight()));
        Self { lines, ..Self::default() }
    }

    pub(super) fn state(&self) -> State {
        self.lines.first().map_or(State::Ok, |line| line.state)
    }

    /// One line with performance data, and one for each thing but the first.
    pub(super) fn text(&self) -> String {
        // A bar begins the performance data; a line break ends the line.
        let plain = |text: &str| text.replace('|', "/").replace(['\n', '\r'], " ");
        let first = self.lines.first().map_or(self.well.as_str(), |line| line.text.as_str());
        let mut text = format!("BROOKLET {} - {}", self.state().name(), plain(first));
        if !self.performance.is_empty() {
            text.push_str(" | ");
            text.push_str(&self.performance.join(" "));
        }
        text.push('\n');
        for line in self.lines.iter().skip(1) {
            text.push_str(&format!("{}: {}\n", line.state.name(), plain(&line.text)));
        }
        text
    }
}

/// What the daemon's answer means.
pub(super) fn of_daemon(status: &Value, database: Option<&Path>, limits: Thresholds) -> Result<Outcome, CliError> {
    let strange = || CliError::failed("the daemon's answer is not understood: is it of another version?");
    let all = status["databases"].as_array().ok_or_else(strange)?;
    let path_of = |one: &Value| one["path"].as_str().unwrap_or_default().to_owned();
    let chosen: Vec<&Value> =
        all.iter().filter(|one| database.is_none_or(|path| Path::new(&path_of(one)) == path)).collect();
    if let (Some(path), true) = (database, chosen.is_empty()) {
        return Err(CliError::failed(format!("the daemon does not replicate {}", path.display())));
    }
    let mut lines = Vec::new();
    if chosen.is_empty() {
        lines.push(Line::new(State::Warning, "no database is replicated"));
    }
    let (mut worst, mut spool, mut counts) = (0.0, 0, [0; 3]);
    for one in &chosen {
        let lag = one["lag_seconds"].as_f64().ok_or_else(strange)?;
        worst = f64::max(worst, lag);
        spool += one["spool_bytes"].as_u64().unwrap_or(0);
        let (place, state) = match one["status"].as_str() {
            Some("ok") => (0, State::Ok),
            Some("degraded") => (1, State::Warning),
            Some("failed") => (2, State::Critical),
            _ => return Err(strange()),
        };
        counts[place] += 1;
        if state != State::Ok {
            let reason = one["reasons"][0]["text"].as_str().unwrap_or("no reason given");
            lines.push(Line::new(state, format!("{}: {reason}", path_of(one))));
        }
        if limits.of(lag) != State::Ok {
            lines.push(Line::new(limits.of(lag), format!("{}: the oldest commit waits for {lag:.1} s", path_of(one))));
        }
    }
    let limit = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64().to_string()).unwrap_or_default();
    let mut outcome = Outcome::new(lines);
    outcome.well = match chosen.as_slice() {
        [one] => format!("{} is replicated, lag {worst:.1} s", path_of(one)),
        several => format!("{} databases are replicated, worst lag {worst:.1} s", several.len()),
    };
    outcome.performance = vec![
        format!("lag={worst:.3}s;{};{};0", limit(limits.warning), limit(limits.critical)),
        format!("databases={};;;0", chosen.len()),
        format!("degraded={};;;0", counts[1]),
        format!("failed={};;;0", counts[2]),
        format!("spool={spool}B;;;0"),
    ];
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn database(path: &str, status: &str, lag: f64) -> Value {
        let reasons = json!([{"grade": status, "cause": "behind", "text": "commits wait | forever\nand ever"}]);
        json!({"path": path, "status": status, "lag_seconds": lag, "spool_bytes": 10,
            "reasons": if status == "ok" { json!([]) } else { reasons }})
    }

    fn shown(databases: &[Value], only: Option<&str>, warning: u64, critical: u64) -> (State, String) {
        let seconds = |n| (n > 0).then(|| Duration::from_secs(n));
        let limits = Thresholds { warning: seconds(warning), critical: seconds(critical) };
        let outcome = of_daemon(&json!({"databases": databases}), only.map(Path::new), limits).unwrap();
        (outcome.state(), outcome.text())
    }

    #[test]
    fn the_worst_database_decides_and_the_others_follow() {
        let (state, text) = shown(
            &[database("/a", "ok", 0.5), database("/b", "degraded", 1.0), database("/c", "failed", 90.0)],
            None,
            0,
            0,
        );
        assert_eq!(state, State::Critical);
        assert_eq!(
            text,
            "BROOKLET CRITICAL - /c: commits wait / forever and ever | lag=90.000s;;;0 databases=3;;;0 degraded=1;;;0 \
             failed=1;;;0 spool=30B;;;0\nWARNING: /b: commits wait / forever and ever\n"
        );
    }

    #[test]
    fn a_lag_is_held_against_what_was_asked() {
        let one = [database("/a", "ok", 20.0)];
        for (warning, critical, expected) in [
            (0, 0, State::Ok),
            (30, 60, State::Ok),
            (10, 60, State::Warning),
            (10, 15, State::Critical),
            (0, 15, State::Critical),
        ] {
            assert_eq!(shown(&one, None, warning, critical).0, expected, "{warning} {critical}");
        }
        assert!(
            shown(&one, None, 30, 60).1.starts_with("BROOKLET OK - /a is replicated, lag 20.0 s | lag=20.000s;30;60;0")
        );
    }

    #[test]
    fn one_database_can_be_asked_for() {
        let two = [database("/a", "failed", 20.0), database("/b", "ok", 0.0)];
        assert_eq!(shown(&two, Some("/b"), 0, 0).0, State::Ok);
        let all = json!({"databases": two});
        assert!(of_daemon(&all, Some(Path::new("/c")), Thresholds::default()).is_err());
        assert!(of_daemon(&json!({"databases": [{"path": "/a"}]}), None, Thresholds::default()).is_err());
        assert!(of_daemon(&json!({}), None, Thresholds::default()).is_err());
        assert_eq!(shown(&[], None, 0, 0).0, State::Warning);
    }

    #[test]
    fn what_is_known_to_be_bad_is_worse_than_what_is_not_known() {
        let lines = [State::Warning, State::Unknown, State::Critical].map(|state| Line::new(state, "x"));
        assert_eq!(Outcome::new(lines.to_vec()).state(), State::Critical);
        assert_eq!(Outcome::new(lines[..2].to_vec()).state(), State::Unknown);
    }
}
