//! Replica URLs, taken apart. One parser for the config file and the command
//! line; what each scheme makes of the parts is the matter of its backend. Pure.
//!
//! `file` is peculiar: Litestream uses everything after `file://` as the path,
//! percent-escapes included, so `file:///a%20b` is the directory `a%20b`, and
//! data lives in directories of such names. Both readings are offered.

use std::path::{Path, PathBuf};

use super::Error;
use super::paths::clean;
use super::replica::BackendKind;
use crate::types::Secret;

/// A replica URL in parts. Escapes are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaUrl {
    /// The backend that the scheme names.
    pub kind: BackendKind,
    /// Whether the scheme was the encrypted variant (`webdavs`).
    pub tls: bool,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Host with port, or the bucket, or the ARN of an access point.
    pub host: String,
    /// The path without its leading slash, cleaned: `.` stands for a path that
    /// was left out, the empty text for a bare slash. `sftp` means it absolute.
    /// For `file`: the directory, as Litestream names it.
    pub path: String,
    /// Query parameters in order. Some are keys that nobody may see.
    query: Vec<(String, Secret)>,
    /// For `file`: the directory that the URL means when its escapes are decoded,
    /// if that is another one.
    decoded_path: Option<String>,
}

impl ReplicaUrl {
    /// Takes a URL apart.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_scheme = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        };
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Err(Error::invalid(format!("replica url scheme required: {}", shown(text))));
        };
        let scheme = scheme.to_ascii_lowercase();
        let kind = BackendKind::from_name(scheme.strip_suffix('s').filter(|s| *s == "webdav").unwrap_or(&scheme))
            .ok_or_else(|| Error::invalid(format!("unknown replica type in config: {scheme:?}")))?;
        let broken = |reason: String| Error::invalid(format!("parse {:?}: {reason}", shown(text)));
        let parts = Parts::split(rest);
        if kind == BackendKind::File {
            return Self::file(&parts).map_err(broken);
        }
        let (host, path) = match parts.access_point() {
            Some((arn, path)) => (arn, path),
            None => (unescape(parts.host).map_err(broken)?, parts.path),
        };
        let (user, password) = match parts.userinfo.map(|info| info.split_once(':').unwrap_or((info, ""))) {
            None => (None, None),
            Some((user, password)) => (
                Some(unescape(user).map_err(broken)?).filter(|user| !user.is_empty()),
                Some(Secret::new(unescape(password).map_err(broken)?)).filter(|secret| !secret.reveal().is_empty()),
            ),
        };
        if parts.access_point().is_none() {
            check_port(&host).map_err(broken)?;
        }
        Ok(Self {
            kind,
            tls: scheme == "webdavs",
            user,
            password,
            host,
            path: key_prefix(&unescape(path).map_err(broken)?),
            query: query(parts.query).map_err(broken)?,
            decoded_path: None,
        })
    }

    fn file(parts: &Parts<'_>) -> Result<Self, String> {
        let whole = |path: &str| {
            let fragment = parts.fragment.map(|text| format!("#{text}")).unwrap_or_default();
            let (userinfo, at) = parts.userinfo.map_or(("", ""), |info| (info, "@"));
            let path = format!("/{userinfo}{at}{}{path}{fragment}", parts.host);
            clean(Path::new(&path)).to_string_lossy().into_owned()
        };
        let decoded = whole(&unescape(parts.path)?);
        let path = whole(&go_escaped(parts.path));
        Ok(Self {
            kind: BackendKind::File,
            tls: false,
            user: None,
            password: None,
            host: String::new(),
            decoded_path: (decoded != path).then_some(decoded),
            path,
            query: query(parts.query)?,
        })
    }

    /// The value of a query parameter by any of its spellings; the last one wins.
    pub fn parameter(&self, spellings: &[&str]) -> Option<&str> {
        let mut latest_first = self.query.iter().rev();
        latest_first.find(|(name, _)| spellings.contains(&name.as_str())).map(|(_, value)| value.reveal())
    }

    /// The names of its query parameters.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.query.iter().map(|(name, _)| name.as_str())
    }

    /// For `file`: the directories the URL may mean, the one Litestream uses first.
    pub fn directories(&self) -> Vec<PathBuf> {
        [Some(&self.path), self.decoded_path.as_ref()].into_iter().flatten().map(PathBuf::from).collect()
    }
}

/// The text after `scheme://`, cut but not decoded.
struct Parts<'a> {
    userinfo: Option<&'a str>,
    host: &'a str,
    path: &'a str,
    query: &'a str,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Self {
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (rest, None),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        Self { userinfo, host, path, query, fragment }
    }

    /// The ARN of an S3 access point, which spans the first slash, and what follows.
    fn access_point(&self) -> Option<(String, &'a str)> {
        let name = self.path.strip_prefix('/').filter(|name| !name.is_empty())?;
        if !self.host.starts_with("arn:") || !self.host.ends_with(":accesspoint") {
            return None;
        }
        let (name, after) = name.split_at(name.find('/').unwrap_or(name.len()));
        Some((format!("{}/{name}", self.host), after))
    }
}

/// A path as a prefix of keys: cleaned, without the leading slash.
pub(crate) fn key_prefix(path: &str) -> String {
    clean(Path::new(path)).to_string_lossy().trim_start_matches('/').to_owned()
}

/// Percent-escapes decoded. What they spell must be text.
fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = match after {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escape {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            None if first == b'%' => {
                let shown: String = String::from_utf8_lossy(rest).chars().take(3).collect();
                return Err(format!("invalid URL escape {shown:?}"));
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "escapes do not spell UTF-8 text".to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The path as Go's URL type writes it back: unchanged if every character may
/// stand in a URL, else decoded and escaped anew.
fn go_escaped(path: &str) -> String {
    let may_stand = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    if path.bytes().all(|b| may_stand(b) || b"!'()*[]%".contains(&b)) {
        return path.to_owned();
    }
    let Ok(decoded) = unescape(path) else { return path.to_owned() };
    let mut escaped = String::with_capacity(decoded.len());
    for byte in decoded.bytes() {
        match may_stand(byte) {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn check_port(host: &str) -> Result<(), String> {
    // Colons inside brackets belong to an IPv6 address.
    let after_address = host.rfind(']').map_or(host, |end| &host[end + 1..]);
    match after_address.split_once(':') {
        Some((_, port)) if !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("invalid port {:?} after host", format!(":{port}")))
        }
        _ => Ok(()),
    }
}

fn query(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // In a query a plus sign stands for a space.
            Ok((unescape(&name.replace('+', " "))?, Secret::new(unescape(&value.replace('+', " "))?)))
        })
        .collect()
}

/// A URL fit to be shown: without its password, and without keys in its query.
/// Any text may be given.
pub fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let parts = Parts::split(rest);
    let mut url = format!("{scheme}://");
    if let Some(info) = parts.userinfo {
        match info.split_once(':') {
            Some((user, _)) => url.push_str(&format!("{user}:***@")),
            None => url.push_str(&format!("{info}@")),
        }
    }
    url.push_str(parts.host);
    url.push_str(parts.path);
    if rest.contains('?') {
        let pairs = parts.query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=***"),
            _ => pair.to_owned(),
        });
        url.push('?');
        url.push_str(&pairs.collect::<Vec<_>>().join("&"));
    }
    if let Some(fragment) = parts.fragment {
        url.push_str(&format!("#{fragment}"));
    }
    url
}

/// Whether the value of a query parameter may be a secret, by its name.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "secret", "token", "password", "sig"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        match ReplicaUrl::parse(text) {
            Err(error) => error.to_string(),
            Ok(url) => {
                let user = url.user.as_deref().map(|user| format!("{user} ")).unwrap_or_default();
                let password = url.password.as_ref().map(|p| format!("{} ", p.reveal())).unwrap_or_default();
                let query: String = url.query.iter().map(|(k, v)| format!(" {k}={}", v.reveal())).collect();
                let tls = if url.tls { "+tls" } else { "" };
                format!("{}{tls} {user}{password}{} {}{query}", url.kind.name(), url.host, url.path)
            }
        }
    }

    #[test]
    fn takes_urls_of_every_scheme_apart() {
        let arn = "arn:aws:s3:us-east-1:123:accesspoint/name";
        let (arn_only, arn_prefix) = (format!("s3://{arn}"), format!("s3://{arn}/pre/fix"));
        let (arn_only_parts, arn_prefix_parts) = (format!("s3 {arn} ."), format!("s3 {arn} pre/fix"));
        let cases = [
            ("s3://b/p", "s3 b p"),
            ("S3://b/p", "s3 b p"),
            ("s3://b", "s3 b ."),
            ("s3://b/", "s3 b "),
            ("s3://b/p/../q//r/", "s3 b q/r"),
            ("s3://b/a%20b", "s3 b a b"),
            ("s3://b.h:9000/p", "s3 b.h:9000 p"),
            (
                "s3://b/p?endpoint=h%3A9000&forcePathStyle=true&x=a+b",
                "s3 b p endpoint=h:9000 forcePathStyle=true x=a b",
            ),
            (&arn_only, &arn_only_parts),
            (&arn_prefix, &arn_prefix_parts),
            ("gs://b/p", "gs b p"),
            ("gcs://b/p", "gs b p"),
            ("abs://acc@cont/p/q", "abs acc cont p/q"),
            ("sftp://u:p%40w@h:22/a/b/", "sftp u p@w h:22 a/b"),
            ("sftp://u@[::1]:22/a", "sftp u [::1]:22 a"),
            ("webdav://h/p", "webdav h p"),
            ("webdavs://u:p@h:8080/p", "webdav+tls u p h:8080 p"),
            ("nats://h:4222/bucket", "nats h:4222 bucket"),
            ("oss://b/p", "oss b p"),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_url_keeps_its_escapes_and_offers_them_decoded() {
        // The first directory of each was printed by Litestream 0.5.17.
        let cases: [(&str, &[&str]); 10] = [
            ("file:///tmp/a", &["/tmp/a"]),
            ("FILE:///tmp/u", &["/tmp/u"]),
            ("file:///tmp/a%20b", &["/tmp/a%20b", "/tmp/a b"]),
            ("file:///tmp/ü x", &["/tmp/%C3%BC%20x", "/tmp/ü x"]),
            ("file:///tmp/x#f?q=1", &["/tmp/x#f?q=1"]),
            ("file:///tmp/x?q=1#f", &["/tmp/x#f"]),
            ("file://rel/p", &["/rel/p"]),
            ("file:///a/../b//c/", &["/b/c"]),
            ("file://~/x", &["/~/x"]),
            ("file:///a(1)", &["/a(1)"]),
        ];
        for (text, expected) in cases {
            let directories = ReplicaUrl::parse(text).unwrap().directories();
            assert_eq!(directories, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        let cases = [
            ("b/c", "replica url scheme required: b/c"),
            ("", "replica url scheme required: "),
            ("s3:foo", "replica url scheme required: s3:foo"),
            ("://b", "replica url scheme required: ://b"),
            ("foo://z", "unknown replica type in config: \"foo\""),
            ("s3s://z", "unknown replica type in config: \"s3s\""),
            ("s3://h/%zz", "parse \"s3://h/%zz\": invalid URL escape \"%zz\""),
            ("file:///%2", "parse \"file:///%2\": invalid URL escape \"%2\""),
            ("sftp://u:secret@h:x/x", "parse \"sftp://u:***@h:x/x\": invalid port \":x\" after host"),
            ("s3://b/%ff", "parse \"s3://b/%ff\": escapes do not spell UTF-8 text"),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn passwords_do_not_show() {
        let url = ReplicaUrl::parse("sftp://u:hunter2@h/p?sseCustomerKey=hunter3").unwrap();
        assert!(!format!("{url:?}").contains("hunter"));
        let cases = [
            ("sftp://u:hunter2@h:1/p", "sftp://u:***@h:1/p"),
            ("sftp://u@h/p?x=1#f", "sftp://u@h/p?x=1#f"),
            ("s3://b/p?sseCustomerKey=hunter3&region=r", "s3://b/p?sseCustomerKey=***&region=r"),
            ("s3-x://u:hunter2@h?", "s3-x://u:***@h?"),
            ("sftp://u:hunter2%zz@h/%zz", "sftp://u:***@h/%zz"),
            ("/a/path", "/a/path"),
            ("s3://b", "s3://b"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text}");
            if let Err(error) = ReplicaUrl::parse(text) {
                assert!(!error.to_string().contains("hunter"), "{error}");
            }
        }
    }

    #[test]
    fn parameters_have_several_spellings() {
        let url = ReplicaUrl::parse("s3://b?force-path-style=true&forcePathStyle=false").unwrap();
        assert_eq!(url.parameter(&["forcePathStyle", "force-path-style"]), Some("false"));
        assert_eq!(url.parameter(&["region"]), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(file|s3|sftp)://[a-c:@/?#%0-9é&=+\\[\\]]{0,30}") {
            drop(ReplicaUrl::parse(&text));
        }
    }
}
