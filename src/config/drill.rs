//! The `drill` keys: how often a restore is rehearsed, and how. Pure.

use std::time::Duration;

use super::error::Error;
use super::global::{at_least_zero, positive};
use super::section::Section;

/// How restores of a database are rehearsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// How often each of its replicas has its turn.
    pub interval: Duration,
    /// Restore into a file, and not only read and add up.
    pub full: bool,
    /// The most bytes to fetch for drills in 24 hours, all databases together.
    pub budget: Option<u64>,
    /// SQL that the restored database is asked.
    pub checks: Vec<String>,
    /// A replica that fails gets a fresh copy of the whole database.
    pub base_on_failure: bool,
}

/// How often, where that is not said.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The database's own keys, else the global ones; `None` unless one of the two
/// maps is there, or where the interval is 0.
pub(crate) fn drill(own: Section<'_>, global: Section<'_>, name: &str) -> Result<Option<Drill>, Error> {
    if !own.exists() && !global.exists() {
        return Ok(None);
    }
    let field = |key: &str| format!("{name}.drill.{key}");
    let text = |key: &str| own.text(key).or_else(|| global.text(key));
    let interval = own.duration("interval").or_else(|| global.duration("interval"));
    at_least_zero(&field("interval"), "drill interval must not be negative", interval)?;
    let full = match text("mode") {
        None | Some("stream") => false,
        Some("full") => true,
        Some(other) => return Err(Error::field(&field("mode"), "must be stream or full", other)),
    };
    let base_on_failure = match text("on-failure") {
        None | Some("report") => false,
        Some("base") => true,
        Some(other) => return Err(Error::field(&field("on-failure"), "must be report or base", other)),
    };
    let checks = if own.has("check") { own.texts("check") } else { global.texts("check") };
    if !full && !checks.is_empty() {
        return Err(Error::field(&field("check"), "needs a restored database: set mode to full", &checks[0]));
    }
    let budget = own.size("budget").or_else(|| global.size("budget"));
    if budget == Some(0) {
        return Err(Error::field(&field("budget"), "must be greater than 0; interval: 0s turns drills off", "0"));
    }
    let interval = positive(interval).unwrap_or(DAY);
    Ok((!interval.is_zero()).then_some(Drill { interval, full, budget, checks, base_on_failure }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::environment;

    #[test]
    fn drills_are_asked_for_and_inherit() {
        let text = "drill: {interval: 6h, mode: full, budget: 1GB, check: [SELECT 1]}\n\
                    dbs: [{path: a, replica: {path: b}}, {path: c, drill: {interval: 1h, check: [], on-failure: base}, \
                    replica: {path: d}}, {path: e, drill: {interval: 0s}, replica: {path: f}}]";
        let config = Config::parse(text, &environment()).unwrap();
        let drills: Vec<Option<Drill>> = config.databases().unwrap().iter().map(|db| db.drill.clone()).collect();
        let global = Drill {
            interval: Duration::from_secs(6 * 3600),
            full: true,
            budget: Some(1_000_000_000),
            checks: vec!["SELECT 1".to_owned()],
            base_on_failure: false,
        };
        let own =
            Drill { interval: Duration::from_secs(3600), checks: Vec::new(), base_on_failure: true, ..global.clone() };
        assert_eq!(drills, [Some(global), Some(own), None]);
        let config = Config::parse("dbs: [{path: a, replica: {path: b}}]", &environment()).unwrap();
        assert_eq!(config.databases().unwrap()[0].drill, None);
        for (drill, reason) in [
            ("{mode: half}", "must be stream or full"),
            ("{on-failure: panic}", "must be report or base"),
            ("{check: [SELECT 1]}", "set mode to full"),
            ("{interval: -1s}", "must not be negative"),
            ("{budget: 0}", "must be greater than 0"),
        ] {
            let config =
                Config::parse(&format!("dbs: [{{path: a, drill: {drill}, replica: {{path: b}}}}]"), &environment());
            let error = config.unwrap().databases().unwrap_err().to_string();
            assert!(error.contains(reason), "{drill}: {error}");
        }
    }
}
