//! How the segments of a replica are merged, and how long they are kept. Pure.

use std::time::Duration;

use super::database::Entry;
use super::error::Error;
use super::global::{above_zero, at_least_zero, positive};
use super::section::Section;

/// What concerns merging and keeping, besides when snapshots are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// The rhythm of level 1, 2, and so on.
    pub levels: Vec<Duration>,
    /// When on a day snapshots are made, in UTC after midnight; and up to how much later.
    pub snapshot_at: Option<(Duration, Duration)>,
    /// Whether anything is ever deleted.
    pub retention_enabled: bool,
    /// How long what was merged is kept as it was; `None`: as long as the rest.
    pub l0_retention: Option<Duration>,
    /// How often to look for it.
    pub check_interval: Duration,
    /// How long what is dispensable stays, so that restores finish.
    pub grace: Duration,
    /// Snapshots kept for longer.
    pub keep: Keep,
    /// Merged segments are read back.
    pub verify: bool,
    /// How often a replica is listed and compared.
    pub audit_interval: Duration,
    /// Local segments in one object at most; 0: all there are.
    pub max_segments: usize,
}

/// Snapshots kept for longer: the newest of so many periods each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest.
    pub last: u32,
    /// One for each hour.
    pub hourly: u32,
    /// One for each day.
    pub daily: u32,
    /// One for each week.
    pub weekly: u32,
    /// One for each month.
    pub monthly: u32,
    /// One for each year.
    pub yearly: u32,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            levels: vec![MINUTE / 2, MINUTE * 5, MINUTE * 60],
            snapshot_at: None,
            retention_enabled: true,
            l0_retention: Some(MINUTE * 5),
            check_interval: Duration::from_secs(15),
            grace: MINUTE * 60,
            keep: Keep::default(),
            verify: false,
            audit_interval: DAY,
            max_segments: 0,
        }
    }
}

/// What the replica, its database and the top of the config ask for.
pub(crate) fn upkeep(section: Section<'_>, entry: &Entry<'_>) -> Result<Upkeep, Error> {
    let (global, defaults) = (entry.global, Upkeep::default());
    let check = section.duration("retention-check-interval");
    above_zero("retention-check-interval", "retention check interval must be greater than 0", check)?;
    let check = positive(check.or_else(|| global.duration("l0-retention-check-interval")));
    let grace = global.section("retention").duration("grace");
    at_least_zero("retention.grace", "grace must not be negative", grace)?;
    let audit = entry.section.duration("audit-interval").or_else(|| global.duration("audit-interval"));
    above_zero("audit-interval", "audit interval must be greater than 0", audit)?;
    let validation = global.section("validation").duration("interval").filter(|nanos| *nanos > 0);
    let levels = global
        .sections("levels")
        .map(|levels| levels.iter().filter_map(|level| positive(level.duration("interval"))).collect::<Vec<_>>());
    let keep = section.section("keep");
    let files = section.int("max-sync-ltx-files").or_else(|| global.int("max-sync-ltx-files"));
    Ok(Upkeep {
        levels: levels.unwrap_or(defaults.levels),
        snapshot_at: snapshot_at(entry)?,
        retention_enabled: global.section("retention").bool("enabled").unwrap_or(true),
        l0_retention: match positive(global.duration("l0-retention")) {
            Some(rest) => Some(rest).filter(|rest| !rest.is_zero()),
            None => defaults.l0_retention,
        },
        check_interval: check.unwrap_or(defaults.check_interval),
        grace: positive(grace).unwrap_or(defaults.grace),
        keep: keep_rules(if keep.exists() { keep } else { global.section("keep") })?,
        verify: global.bool("verify-compaction").unwrap_or(defaults.verify),
        audit_interval: positive(audit.or(validation)).unwrap_or(defaults.audit_interval),
        max_segments: match files {
            None => defaults.max_segments,
            Some(files) => usize::try_from(files)
                .map_err(|_| Error::field("max-sync-ltx-files", "must not be negative", &files.to_string()))?,
        },
    })
}

fn keep_rules(section: Section<'_>) -> Result<Keep, Error> {
    let number = |key: &str| match section.int(key) {
        None => Ok(0),
        Some(n) => u32::try_from(n).map_err(|_| {
            Error::field(&format!("keep.{key}"), "must not be negative, and below 4294967296", &n.to_string())
        }),
    };
    Ok(Keep {
        last: number("last")?,
        hourly: number("hourly")?,
        daily: number("daily")?,
        weekly: number("weekly")?,
        monthly: number("monthly")?,
        yearly: number("yearly")?,
    })
}

fn snapshot_at(entry: &Entry<'_>) -> Result<Option<(Duration, Duration)>, Error> {
    let places = [entry.section.section("snapshot"), entry.global.section("snapshot")];
    let jitter = places.iter().find_map(|section| section.duration("jitter"));
    at_least_zero("snapshot.jitter", "snapshot jitter must not be negative", jitter)?;
    let jitter = positive(jitter);
    if let Some(long) = jitter.filter(|jitter| *jitter >= DAY) {
        return Err(Error::field("snapshot.jitter", "must be less than a day", &format!("{long:?}")));
    }
    let Some(text) = places.iter().find_map(|section| section.text("at")) else {
        return match jitter {
            None => Ok(None),
            Some(_) => Err(Error::invalid("snapshot.jitter has no meaning without snapshot.at")),
        };
    };
    let at = time_of_day(text).ok_or_else(|| Error::field("snapshot.at", "must be a time in UTC like 03:30", text))?;
    let interval = places.iter().find_map(|section| section.duration("interval"));
    if let Some(interval) = positive(interval).filter(|interval| interval.as_nanos() % DAY.as_nanos() != 0) {
        let reason = "must be whole days if snapshot.at is given";
        return Err(Error::field("snapshot.interval", reason, &format!("{interval:?}")));
    }
    Ok(Some((at, jitter.unwrap_or(Duration::ZERO))))
}

fn time_of_day(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if plain { text.parse::<u64>().ok() } else { None }
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then(|| Duration::from_secs((hours * 60 + minutes) * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{parsed, secs};

    #[test]
    fn a_time_of_day_is_hours_and_minutes() {
        let minutes = |n: u64| Some(Duration::from_secs(n * 60));
        let cases = [("03:00", minutes(180)), ("0:05", minutes(5)), ("23:59", minutes(1439))];
        for (text, expected) in cases {
            assert_eq!(time_of_day(text), expected, "{text}");
        }
        for text in ["", "3", "24:00", "03:60", "+3:00", "03:00:00", "3 pm", ":", "003:00"] {
            assert_eq!(time_of_day(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_asked_of_upkeep_arrives() {
        let config = parsed(
            "
    levels: [{interval: 10s}, {interval: 1m}]
    snapshot: {interval: 48h, at: \"03:30\", jitter: 20m}
    retention: {enabled: false, grace: 2h}
    l0-retention: 0
    l0-retention-check-interval: 20s
    validation: {interval: 6h}
    verify-compaction: true
    keep: {daily: 7, monthly: 3}
    max-sync-ltx-files: 50
    dbs:
      - path: a
        audit-interval: 1h
        replicas:
          - path: b
            name: one
          - path: c
            name: two
            retention-check-interval: 1m
            max-sync-ltx-files: 0
            keep: {last: 2, hourly: 1, weekly: 5, yearly: 9}
      - path: d
        replica: {path: e}
    ",
        );
        assert_eq!(config.warnings, []);
        let databases = config.databases().unwrap();
        let expected = Upkeep {
            levels: vec![secs(10), secs(60)],
            snapshot_at: Some((secs(12_600), secs(1200))),
            retention_enabled: false,
            l0_retention: None,
            check_interval: secs(20),
            grace: secs(7200),
            keep: Keep { daily: 7, monthly: 3, ..Keep::default() },
            verify: true,
            audit_interval: secs(3600),
            max_segments: 50,
        };
        assert_eq!(databases[0].replicas[0].upkeep, expected);
        let own = Upkeep {
            check_interval: secs(60),
            keep: Keep { last: 2, hourly: 1, weekly: 5, yearly: 9, ..Keep::default() },
            max_segments: 0,
            ..expected
        };
        assert_eq!(databases[0].replicas[1].upkeep, own);
        assert_eq!(databases[1].replicas[0].upkeep.audit_interval, secs(6 * 3600));
        let none = parsed("levels: []\ndbs: [{path: a, replica: {path: b}}]");
        // Litestream uploads them one by one and stops after 256; here they become one object.
        assert_eq!(none.databases().unwrap()[0].replicas[0].upkeep.max_segments, 0);
        assert!(none.databases().unwrap()[0].replicas[0].upkeep.levels.is_empty());
    }

    #[test]
    fn upkeep_settings_that_make_no_sense_are_refused() {
        for (text, expected) in [
            ("snapshot: {at: 3am}", "snapshot.at"),
            ("snapshot: {jitter: 5m}", "snapshot.jitter"),
            ("snapshot: {at: \"03:00\", jitter: 24h}", "snapshot.jitter"),
            ("snapshot: {at: \"03:00\", interval: 6h}", "snapshot.interval"),
            ("retention: {grace: -1s}", "retention.grace"),
            ("audit-interval: 0s", "audit-interval"),
            ("keep: {daily: -1}", "keep.daily"),
            ("max-sync-ltx-files: -1", "max-sync-ltx-files"),
        ] {
            let config = parsed(&format!("{text}\ndbs: [{{path: a, replica: {{path: b}}}}]"));
            let error = config.databases().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
