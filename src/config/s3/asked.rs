//! Where the value of a setting may stand, and which place counts.
//!
//! Always true: the replica's own key beats the global one, a key beats the URL,
//! and empty text is the same as none. Pure.

use crate::config::check::{Warning, WarningKind};
use crate::config::env::Environment;
use crate::config::section::Section;
use crate::config::url::ReplicaUrl;

/// What is known about one replica.
pub(crate) struct Asked<'a> {
    pub(crate) section: Section<'a>,
    pub(crate) global: Section<'a>,
    pub(crate) url: Option<&'a ReplicaUrl>,
    pub(crate) environment: &'a Environment,
}

impl<'a> Asked<'a> {
    /// The replica's own key or the global one.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.section.text(key).or_else(|| self.global.text(key))
    }

    pub(super) fn parameter(&self, spellings: &[&str]) -> Option<&'a str> {
        self.url?.parameter(spellings).filter(|value| !value.is_empty())
    }

    /// A key, or else a parameter.
    pub(super) fn value(&self, key: &str, spellings: &[&str]) -> Option<&'a str> {
        self.text(key).or_else(|| self.parameter(spellings))
    }

    pub(super) fn bool(&self, key: &str) -> Option<bool> {
        self.section.bool(key).or_else(|| self.global.bool(key))
    }

    pub(super) fn switch(&self, key: &str, spellings: &[&str]) -> Option<bool> {
        self.bool(key).or_else(|| self.parameter(spellings).map(is_true))
    }

    /// The replica's own map, or the global one; they are not mixed.
    pub(super) fn pairs(&self, key: &str) -> Vec<(String, String)> {
        self.section.pairs(key).or_else(|| self.global.pairs(key)).unwrap_or_default()
    }

    /// What in a URL will not do what its author expects.
    pub(super) fn check_url(&self, url: &ReplicaUrl, warnings: &mut Vec<Warning>) {
        let line = self.section.line("url");
        let mut warn = |text: String| warnings.push(Warning { line, kind: WarningKind::Suspicious, text });
        for name in url.parameters() {
            if !PARAMETERS.contains(&name) {
                warn(format!("parameter {name:?} of an s3 url is not known and ignored"));
            }
        }
        if url.user.is_some() {
            warn("user name and password of an s3 url are ignored: use access-key-id and secret-access-key".to_owned());
        }
    }
}

/// Parameters of an `s3://` URL, in every spelling.
const PARAMETERS: [&str; 26] = [
    "endpoint",
    "region",
    "forcePathStyle",
    "force-path-style",
    "skipVerify",
    "skip-verify",
    "signPayload",
    "sign-payload",
    "requireContentMD5",
    "require-content-md5",
    "checksums",
    "conditionalWrites",
    "conditional-writes",
    "storageClass",
    "storage-class",
    "partSize",
    "part-size",
    "concurrency",
    "sseCustomerAlgorithm",
    "sse-customer-algorithm",
    "sseCustomerKey",
    "sse-customer-key",
    // Derived from the key by whoever sends it.
    "sseCustomerKeyMD5",
    "sse-customer-key-md5",
    "sseKmsKeyId",
    "sse-kms-key-id",
];

pub(super) fn is_true(text: &str) -> bool {
    ["1", "t", "true", "y", "yes"].iter().any(|yes| yes.eq_ignore_ascii_case(text))
}
