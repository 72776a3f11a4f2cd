//! What proves who we are, and what objects are encrypted with. Pure.
//!
//! Always true: half a pair of credentials is never used, a key is never sent in
//! the clear, and no message shows one.

use std::path::{Path, PathBuf};

use super::asked::Asked;
use crate::config::check::{Warning, WarningKind};
use crate::config::error::Error;
use crate::config::paths::absolute;
use crate::storage::s3::{Credentials, Encryption, providers};
use crate::types::Secret;

pub(super) const KEY_REASON: &str = "must hold 32 bytes in base64";

impl Asked<'_> {
    /// Static credentials need both halves. The token belongs to the pair beside it.
    pub(super) fn credentials(&self, warnings: &mut Vec<Warning>) -> Option<Credentials> {
        let (id, secret) = (self.text("access-key-id"), self.text("secret-access-key"));
        match (id, secret) {
            (Some(id), Some(secret)) => {
                let own = |key| self.section.text(key);
                let own_pair = own("access-key-id").is_some() || own("secret-access-key").is_some();
                let token = if own_pair { own("session-token") } else { self.text("session-token") };
                Some(Credentials {
                    access_key_id: id.to_owned(),
                    secret_access_key: Secret::new(secret),
                    session_token: token.map(Secret::new),
                })
            }
            (None, None) => None,
            (id, _) => {
                let (given, lacking) = match id {
                    Some(_) => ("access-key-id", "secret-access-key"),
                    None => ("secret-access-key", "access-key-id"),
                };
                let holder = if self.section.text(given).is_some() { self.section } else { self.global };
                let line = holder.line(given);
                let text = format!(
                    "key {given:?} (line {line}) is not used because {lacking:?} is missing: \
                     credentials are taken from the environment"
                );
                warnings.push(Warning { line, kind: WarningKind::Suspicious, text });
                None
            }
        }
    }

    /// Who encrypts, and the file with the key if it is not here.
    pub(super) fn encryption(&self, endpoint: Option<&str>) -> Result<(Encryption, Option<PathBuf>), Error> {
        let algorithm = self.value("sse-customer-algorithm", &["sseCustomerAlgorithm", "sse-customer-algorithm"]);
        let inline = self.value("sse-customer-key", &["sseCustomerKey", "sse-customer-key"]);
        let file = self.text("sse-customer-key-path");
        let kms = self.value("sse-kms-key-id", &["sseKmsKeyId", "sse-kms-key-id"]);
        if (inline.is_some() || file.is_some()) && kms.is_some() {
            return Err(Error::invalid("cannot specify both sse-customer-key and sse-kms-key-id: choose one"));
        }
        if let Some(other) = algorithm.filter(|name| *name != "AES256") {
            return Err(Error::field("sse-customer-algorithm", "must be AES256", other));
        }
        if inline.is_none() && file.is_none() {
            return match (kms, algorithm) {
                (None, Some(_)) => {
                    Err(Error::invalid("sse-customer-key required with sse-customer-algorithm: give a key of 32 bytes"))
                }
                (Some(key_id), _) => Ok((Encryption::Kms { key_id: key_id.to_owned() }, None)),
                (None, None) => Ok((Encryption::Bucket, None)),
            };
        }
        if let Some(endpoint) = endpoint.filter(|url| url.starts_with("http://") && !providers::is_local(url)) {
            let reason = "sse-customer-key must not travel in the clear: use an https endpoint";
            return Err(Error::field("endpoint", reason, endpoint));
        }
        let algorithm = "AES256".to_owned();
        if let Some(path) = file {
            let path = absolute(Path::new(path), self.environment);
            return Ok((Encryption::Customer { algorithm, key: Secret::new("") }, Some(path)));
        }
        // Its value is not shown.
        let wrong = || Error::invalid(format!("sse-customer-key: {KEY_REASON}"));
        let key = customer_key(inline.unwrap_or_default()).ok_or_else(wrong)?;
        Ok((Encryption::Customer { algorithm, key }, None))
    }
}

pub(super) fn customer_key(text: &str) -> Option<Secret> {
    let bytes = aws_smithy_types::base64::decode(text).ok()?;
    (bytes.len() == 32).then(|| Secret::new(text))
}
