//! What is said over the control socket: the requests and answers of Litestream
//! 0.5, which its programs and ours both speak, and a few of our own.
//!
//! TXIDs are decimal numbers here, times RFC 3339, timeouts whole seconds. What a
//! program does not know in a request or an answer, it ignores.

mod client;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};

/// `POST /start`, `/stop`, `/unregister`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DatabaseRequest {
    /// The database.
    #[serde(default)]
    pub path: String,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// `POST /sync`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SyncRequest {
    /// The database.
    #[serde(default)]
    pub path: String,
    /// Upload too.
    #[serde(default)]
    pub wait: bool,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// `POST /wait`, ours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WaitRequest {
    /// The database.
    #[serde(default)]
    pub path: String,
    /// What is to be confirmed; without it, what is committed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// `POST /register`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The database.
    #[serde(default)]
    pub path: String,
    /// Where it goes.
    #[serde(default)]
    pub replica_url: String,
}

/// The answer to a change of one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What was done.
    pub status: String,
    /// The database.
    pub path: String,
    /// The newest transaction; absent where the original tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<u64>,
}

/// The answer to `POST /sync` and `/wait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// `no_change`, `synced`, `synced_local`, or `confirmed`.
    pub status: String,
    /// The database.
    pub path: String,
    /// The newest transaction.
    pub txid: u64,
    /// The newest one on the replica.
    #[serde(default)]
    pub replicated_txid: u64,
}

/// The answer to `GET /txid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The newest transaction.
    pub txid: u64,
}

/// The answer to `GET /list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The databases.
    #[serde(default)]
    pub databases: Vec<Listed>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The database.
    pub path: String,
    /// `replicating`, `open` or `stopped`.
    pub status: String,
    /// When something arrived on the replica last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_at: Option<String>,
}

/// The answer to `GET /info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// For how long it has run.
    pub uptime_seconds: u64,
    /// Since when.
    pub started_at: String,
    /// How many databases it has.
    pub database_count: usize,
}

/// The answer to `POST /reload`, ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Databases that are followed from now on.
    pub added: Vec<String>,
    /// Databases that are not followed any more.
    pub removed: Vec<String>,
    /// Databases that are followed in another way.
    pub changed: Vec<String>,
    /// How many databases are left as they were.
    pub unchanged: usize,
    /// What could not be done, or only at the next start.
    pub remarks: Vec<String>,
}

/// An answer with a status other than 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub error: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// One line of JSON, spelled as Go spells it.
///
/// # Panics
/// If the value has keys that are no texts, which none of ours has.
pub fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("messages are plain structures");
    // These characters stand nowhere in JSON but within texts.
    let mut escaped = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => escaped.push(other),
        }
    }
    escaped.push('\n');
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_go_does() {
        let refusal = Refusal { error: "a < b & \"c\" > ü".to_owned(), details: None };
        assert_eq!(line(&refusal), "{\"error\":\"a \\u003c b \\u0026 \\\"c\\\" \\u003e ü\"}\n");
    }

    #[test]
    fn what_the_original_sends_is_understood() {
        let info = r#"{"version":"0.5.17","pid":1,"uptime_seconds":2,"started_at":"x","database_count":1,"new":[]}"#;
        assert_eq!(serde_json::from_str::<Info>(info).unwrap().version, "0.5.17");
        let request: SyncRequest = serde_json::from_str(r#"{"path":"a","zzz":1}"#).unwrap();
        assert!(!request.wait && request.timeout.is_none());
        let list: List = serde_json::from_str(r#"{"databases":[{"path":"a","status":"stopped"}]}"#).unwrap();
        assert_eq!(list.databases[0].last_sync_at, None);
    }
}
