//! Which name was meant by one that does not exist. Pure.
//!
//! Always true: what is suggested exists, and is so near that few letters make
//! the difference; upper case and underscores make none.

/// The known name nearest to a misspelt one, if any is near enough to mean it.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let squash = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wrong = squash(wrong);
    let limit = (wrong.chars().count() / 3).clamp(1, 3);
    known
        .map(|name| (distance(&wrong, &squash(name)), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be changed, added, removed or swapped with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // One row of the usual table per letter of `a`; a swap looks two rows back.
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::Place::{Database, Logging, Replica, Top};
    use crate::config::keys::keys_in;

    #[test]
    fn suggests_the_key_that_was_meant() {
        let cases = [
            (Top, "db", Some("dbs")),
            (Top, "adr", Some("addr")),
            (Database, "replcia", Some("replica")),
            (Database, "monitor_interval", Some("monitor-interval")),
            (Database, "Path", Some("path")),
            (Database, "checkpoint-intervall", Some("checkpoint-interval")),
            (Replica, "sync-intervall", Some("sync-interval")),
            (Replica, "acces-key-id", Some("access-key-id")),
            (Replica, "buckt", Some("bucket")),
            (Top, "x", None),
            (Top, "something-else", None),
            (Logging, "addr", None),
        ];
        for (place, wrong, expected) in cases {
            let known = keys_in(place).map(|key| key.name);
            assert_eq!(nearest(wrong, known), expected, "{wrong}");
        }
    }
}
