//! Every key a config file may hold: where, of which type, and whether anything
//! comes of it in this version. The one table; checking, warnings, the example
//! file and the reference in `docs/` are all held against it.
//!
//! A feature that lands changes the `effect` of its keys here to `Now`.

use Effect::{Always, Gone, Later, Now};
use Kind::{Bool, Duration, Int, Map, MapOrMaps, Maps, Mode, Pairs, Size, Text, Texts};
use Place::{
    Age, Database, Drill, Keep, Level, Logging, Replica, Retention, Shared, Snapshot, Socket, Top, Validation, Webhook,
};

/// Which map a key belongs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Top,
    Logging,
    Snapshot,
    Retention,
    Validation,
    Level,
    Socket,
    Database,
    Replica,
    /// In a replica, and at the top as the default of all replicas.
    Shared,
    Keep,
    Age,
    Drill,
    Webhook,
}

/// What stands behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bool,
    Int,
    /// File permissions: an integer, usually written in octal.
    Mode,
    Duration,
    Size,
    Texts,
    /// A map from names that the user chooses to texts.
    Pairs,
    Map(Place),
    Maps(Place),
    /// One map, or a list with one.
    MapOrMaps(Place),
}

/// What comes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It does what it says.
    Now,
    /// What it asks for is always so.
    Always,
    /// Its feature is not built yet: say so when the daemon starts.
    Later,
    /// It will never do anything again.
    Gone(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) effect: Effect,
}

const fn key(place: Place, name: &'static str, kind: Kind, effect: Effect) -> Key {
    Key { place, name, kind, effect }
}

pub(crate) const KEYS: &[Key] = &[
    key(Top, "dbs", Maps(Database), Now),
    key(Top, "addr", Text, Now),
    key(Top, "addr-token", Text, Now),
    key(Top, "addr-token-file", Text, Now),
    key(Top, "metrics-per-database", Text, Now),
    key(Top, "health-objective", Duration, Now),
    key(Top, "webhook", Map(Webhook), Now),
    key(Top, "exec", Text, Now),
    key(Top, "logging", Map(Logging), Now),
    key(Top, "levels", Maps(Level), Now),
    key(Top, "snapshot", Map(Snapshot), Now),
    key(Top, "retention", Map(Retention), Now),
    key(Top, "l0-retention", Duration, Now),
    key(Top, "l0-retention-check-interval", Duration, Now),
    key(Top, "validation", Map(Validation), Now),
    key(Top, "audit-interval", Duration, Now),
    key(Top, "verify-compaction", Bool, Now),
    key(Top, "heartbeat-url", Text, Now),
    key(Top, "heartbeat-interval", Duration, Now),
    key(Top, "shutdown-sync-timeout", Duration, Now),
    key(Top, "shutdown-sync-interval", Duration, Now),
    key(Top, "strict-start", Bool, Now),
    key(Top, "spool-max-size", Size, Now),
    key(Top, "disk-free-floor", Size, Now),
    key(Top, "park-after", Duration, Now),
    key(Top, "drill", Map(Drill), Now),
    key(Top, "socket", Map(Socket), Now),
    key(Top, "mcp-addr", Text, Later),
    key(Logging, "level", Text, Now),
    key(Logging, "type", Text, Now),
    key(Logging, "stderr", Bool, Now),
    key(Logging, "source", Bool, Now),
    key(Level, "interval", Duration, Now),
    key(Snapshot, "interval", Duration, Now),
    key(Snapshot, "retention", Duration, Now),
    key(Snapshot, "at", Text, Now),
    key(Snapshot, "jitter", Duration, Now),
    key(Retention, "enabled", Bool, Now),
    key(Retention, "grace", Duration, Now),
    key(Validation, "interval", Duration, Now),
    key(Drill, "interval", Duration, Now),
    key(Drill, "mode", Text, Now),
    key(Drill, "budget", Size, Now),
    key(Drill, "check", Texts, Now),
    key(Drill, "on-failure", Text, Now),
    key(Socket, "enabled", Bool, Now),
    key(Socket, "path", Text, Now),
    key(Socket, "permissions", Mode, Now),
    key(Database, "path", Text, Now),
    key(Database, "dir", Text, Now),
    key(Database, "pattern", Text, Now),
    key(Database, "recursive", Bool, Now),
    key(Database, "watch", Bool, Now),
    key(Database, "snapshot", Map(Snapshot), Now),
    key(Database, "audit-interval", Duration, Now),
    key(Database, "drill", Map(Drill), Now),
    key(Database, "meta-path", Text, Now),
    key(Database, "meta-dir", Text, Now),
    key(Database, "monitor-interval", Duration, Now),
    key(Database, "checkpoint-interval", Duration, Now),
    key(Database, "busy-timeout", Duration, Now),
    key(Database, "min-checkpoint-page-count", Int, Now),
    key(Database, "max-checkpoint-page-count", Int, Gone("use \"truncate-page-n\"")),
    key(Database, "truncate-page-n", Int, Now),
    key(Database, "max-sync-wal-bytes", Int, Now),
    key(Database, "spool-max-size", Size, Now),
    key(Database, "park-after", Duration, Now),
    key(Database, "restore-if-db-not-exists", Bool, Now),
    key(Database, "replica", MapOrMaps(Replica), Now),
    key(Database, "replicas", Maps(Replica), Now),
    key(Replica, "type", Text, Now),
    key(Replica, "name", Text, Now),
    key(Replica, "url", Text, Now),
    key(Replica, "path", Text, Now),
    key(Replica, "retention", Duration, Now),
    key(Replica, "retention-check-interval", Duration, Now),
    key(Replica, "snapshot-interval", Duration, Now),
    key(Shared, "sync-interval", Duration, Now),
    key(Shared, "ltx-encoding", Text, Now),
    key(Shared, "max-upload-rate", Size, Now),
    key(Shared, "create-only", Bool, Now),
    key(Shared, "validation-interval", Duration, Gone("use \"validation.interval\"")),
    key(Shared, "max-sync-ltx-files", Int, Now),
    key(Shared, "keep", Map(Keep), Now),
    key(Shared, "auto-recover", Bool, Always),
    key(Shared, "access-key-id", Text, Now),
    key(Shared, "secret-access-key", Text, Now),
    key(Shared, "session-token", Text, Now),
    key(Shared, "region", Text, Now),
    key(Shared, "bucket", Text, Now),
    key(Shared, "endpoint", Text, Now),
    key(Shared, "force-path-style", Bool, Now),
    key(Shared, "skip-verify", Bool, Now),
    key(Shared, "sign-payload", Bool, Now),
    key(Shared, "require-content-md5", Bool, Now),
    key(Shared, "checksums", Bool, Now),
    key(Shared, "conditional-writes", Bool, Now),
    key(Shared, "storage-class", Text, Now),
    key(Shared, "part-size", Size, Now),
    key(Shared, "concurrency", Int, Now),
    key(Shared, "sse-customer-algorithm", Text, Now),
    key(Shared, "sse-customer-key", Text, Now),
    key(Shared, "sse-customer-key-path", Text, Now),
    key(Shared, "sse-kms-key-id", Text, Now),
    key(Shared, "tags", Pairs, Now),
    key(Shared, "headers", Pairs, Now),
    key(Shared, "account-name", Text, Later),
    key(Shared, "account-key", Text, Later),
    key(Shared, "sas-token", Text, Later),
    key(Shared, "host", Text, Later),
    key(Shared, "user", Text, Later),
    key(Shared, "password", Text, Later),
    key(Shared, "key-path", Text, Later),
    key(Shared, "concurrent-writes", Bool, Later),
    key(Shared, "host-key", Text, Later),
    key(Shared, "webdav-url", Text, Later),
    key(Shared, "webdav-username", Text, Later),
    key(Shared, "webdav-password", Text, Later),
    key(Shared, "jwt", Text, Later),
    key(Shared, "seed", Text, Later),
    key(Shared, "creds", Text, Later),
    key(Shared, "nkey", Text, Later),
    key(Shared, "username", Text, Later),
    key(Shared, "token", Text, Later),
    key(Shared, "tls", Bool, Later),
    key(Shared, "root-cas", Texts, Later),
    key(Shared, "client-cert", Text, Later),
    key(Shared, "client-key", Text, Later),
    key(Shared, "max-reconnects", Int, Later),
    key(Shared, "reconnect-wait", Duration, Later),
    key(Shared, "timeout", Duration, Later),
    key(Shared, "age", Map(Age), Now),
    key(Keep, "last", Int, Now),
    key(Keep, "hourly", Int, Now),
    key(Keep, "daily", Int, Now),
    key(Keep, "weekly", Int, Now),
    key(Keep, "monthly", Int, Now),
    key(Keep, "yearly", Int, Now),
    key(Age, "identities", Texts, Now),
    key(Age, "recipients", Texts, Now),
    key(Webhook, "url", Text, Now),
    key(Webhook, "headers", Pairs, Now),
    key(Webhook, "body", Text, Now),
];

/// The keys that may stand in a map at that place.
pub(crate) fn keys_in(place: Place) -> impl Iterator<Item = &'static Key> {
    let shared = matches!(place, Top | Replica);
    KEYS.iter().filter(move |key| key.place == place || (shared && key.place == Shared))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_is_listed_twice_in_one_place() {
        for place in
            [Top, Logging, Snapshot, Retention, Validation, Level, Socket, Database, Replica, Keep, Age, Drill, Webhook]
        {
            let mut seen = HashSet::new();
            for key in keys_in(place) {
                assert!(seen.insert(key.name), "{place:?} {}", key.name);
            }
        }
    }

    #[test]
    fn knows_the_keys_of_both_generations_of_litestream() {
        let count = |place| keys_in(place).count();
        // The original's own keys, plus "strict-start", "audit-interval", "drill", "addr-token", "addr-token-file",
        // "metrics-per-database", "health-objective", "webhook", "spool-max-size", "disk-free-floor" and "park-after".
        assert_eq!(KEYS.iter().filter(|key| key.place == Top).count(), 28);
        // Those of both generations, plus "spool-max-size", "audit-interval", "drill" and "park-after".
        assert_eq!(count(Database), 22);
        // The original's 46, plus "ltx-encoding", "keep", "max-upload-rate", "create-only", "session-token",
        // "checksums", "conditional-writes", "tags" and "headers".
        assert_eq!(KEYS.iter().filter(|key| key.place == Shared).count(), 55);
    }
}
