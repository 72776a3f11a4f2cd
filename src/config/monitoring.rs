//! The keys about health: where it is shown, to whom, and who is told. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::duration::show;
use super::error::Error;
use super::global::{above_zero, positive};
use super::section::Section;
use crate::types::Secret;

/// Who may know how things are, and who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitoring {
    /// Where metrics, health and the page are served; `None`: nowhere.
    pub address: Option<Address>,
    /// What must be shown to see anything but health.
    pub token: Option<Token>,
    /// Whether metrics have series of their own for each database.
    pub per_database: PerDatabase,
    /// How old a disagreement may be; `None`: the default.
    pub objective: Option<Duration>,
    /// Called while everything is well.
    pub heartbeat: Option<Heartbeat>,
    /// Told when health changes.
    pub webhook: Option<Webhook>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or number; `None`: every address of this machine.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
}

/// What must be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// This.
    Text(Secret),
    /// What this file holds, without white space around it.
    File(PathBuf),
}

/// When metrics have series of their own for each database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PerDatabase {
    /// Up to 1,000 databases.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A call while everything is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whom to call; the address often is the secret.
    pub url: Secret,
    /// How often at most.
    pub interval: Duration,
}

/// A call when health changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Whom to call; the address often is the secret.
    pub url: Secret,
    /// Sent along.
    pub headers: Vec<(String, Secret)>,
    /// What is sent, with names in double braces; `None`: our own JSON.
    pub body: Option<String>,
}

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn monitoring(root: Section<'_>) -> Result<Monitoring, Error> {
    let objective = root.duration("health-objective");
    above_zero("health-objective", "health objective must be greater than 0", objective)?;
    let per_database = match root.text("metrics-per-database") {
        None | Some("auto") => PerDatabase::Auto,
        Some("always") => PerDatabase::Always,
        Some("never") => PerDatabase::Never,
        Some(other) => return Err(Error::field("metrics-per-database", "must be auto, always or never", other)),
    };
    Ok(Monitoring {
        address: root.text("addr").map(address).transpose()?,
        token: token(root)?,
        per_database,
        objective: positive(objective),
        heartbeat: heartbeat(root)?,
        webhook: webhook(root.section("webhook"))?,
    })
}

/// `:9090` means every address, as it always has; a port alone means this machine only.
fn address(text: &str) -> Result<Address, Error> {
    let wrong = || Error::field("addr", "must hold a port, as in :9090, 127.0.0.1:9090 or [::1]:9090", text);
    let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
    let port = port.parse().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']').ok_or_else(wrong)?,
        // An address of version 6 without brackets has no port that one could tell.
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    Ok(Address { host: (!host.is_empty()).then(|| host.to_owned()), port })
}

fn token(root: Section<'_>) -> Result<Option<Token>, Error> {
    match (root.text("addr-token"), root.text("addr-token-file")) {
        (Some(_), Some(file)) => Err(Error::field("addr-token-file", "must not stand beside addr-token", file)),
        (Some(text), None) => Ok(Some(Token::Text(Secret::new(text)))),
        (None, file) => Ok(file.map(|file| Token::File(PathBuf::from(file)))),
    }
}

fn heartbeat(root: Section<'_>) -> Result<Option<Heartbeat>, Error> {
    let url = root.text("heartbeat-url").map(|url| web("heartbeat-url", "heartbeat URL", url)).transpose()?;
    let interval = root.duration("heartbeat-interval");
    if let Some(nanos) = interval.filter(|nanos| positive(Some(*nanos)).is_none_or(|interval| interval < MINUTE)) {
        return Err(Error::field("heartbeat-interval", "heartbeat interval must be at least 1 minute", &show(nanos)));
    }
    Ok(url.map(|url| Heartbeat { url, interval: positive(interval).unwrap_or(5 * MINUTE) }))
}

fn webhook(section: Section<'_>) -> Result<Option<Webhook>, Error> {
    let Some(url) = section.text("url") else {
        return match section.exists() {
            true => Err(Error::invalid("webhook has no url")),
            false => Ok(None),
        };
    };
    let headers = section.pairs("headers").unwrap_or_default();
    let name_is_fine = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let value_is_fine = |value: &str| value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f));
    if let Some((name, _)) = headers.iter().find(|(name, value)| !name_is_fine(name) || !value_is_fine(value)) {
        return Err(Error::field("webhook.headers", "must be names and values of HTTP headers", name));
    }
    Ok(Some(Webhook {
        url: web("webhook.url", "webhook URL", url)?,
        headers: headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
        body: section.text("body").map(str::to_owned),
    }))
}

fn web(field: &str, what: &str, url: &str) -> Result<Secret, Error> {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) {
        true => Ok(Secret::new(url)),
        false => Err(Error::field(field, &format!("{what} must be a valid HTTP or HTTPS URL"), url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::{environment, secs};

    #[test]
    fn an_address_is_what_litestream_takes_it_for() {
        let at = |host: Option<&str>| Some(Address { host: host.map(str::to_owned), port: 9090 });
        let cases = [
            (":9090", at(None)),
            ("0.0.0.0:9090", at(Some("0.0.0.0"))),
            ("[::1]:9090", at(Some("::1"))),
            ("localhost:9090", at(Some("localhost"))),
            ("9090", at(Some("localhost"))),
            ("localhost", None),
            ("::1:9090", None),
            (":http", None),
            (":99999", None),
            ("[::1:9090", None),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_asked_of_monitoring_arrives() {
        let of = |text: &str| Config::parse(text, &environment()).map(|config| config.global.monitoring);
        assert_eq!(of("dbs: []").unwrap(), Monitoring::default());
        let all = of("addr: ':9090'\naddr-token: abc\nmetrics-per-database: never\nhealth-objective: 10s\n\
                      heartbeat-url: https://a/b\nwebhook: {url: http://c, headers: {X-A: b}, body: '{{status}}'}\n")
        .unwrap();
        assert_eq!(all.address, Some(Address { host: None, port: 9090 }));
        assert_eq!(all.token, Some(Token::Text(Secret::new("abc"))));
        assert_eq!((all.per_database, all.objective), (PerDatabase::Never, Some(secs(10))));
        let heartbeat = all.heartbeat.unwrap();
        assert_eq!((heartbeat.url.reveal(), heartbeat.interval), ("https://a/b", secs(300)));
        let webhook = all.webhook.unwrap();
        assert_eq!((webhook.headers[0].0.as_str(), webhook.headers[0].1.reveal()), ("X-A", "b"));
        for (text, reason) in [
            ("addr: localhost", "must hold a port"),
            ("addr-token: a\naddr-token-file: b", "must not stand beside"),
            ("metrics-per-database: some", "must be auto, always or never"),
            ("health-objective: 0s", "must be greater than 0"),
            ("heartbeat-url: ftp://a", "must be a valid HTTP or HTTPS URL"),
            ("heartbeat-interval: 30s", "must be at least 1 minute"),
            ("webhook: {body: x}", "has no url"),
            ("webhook: {url: a.example}", "must be a valid HTTP or HTTPS URL"),
            ("webhook: {url: http://a, headers: {'a b': c}}", "must be names and values of HTTP headers"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
