//! From the keys of a replica, its URL, the global defaults and the environment
//! to what an S3 storage is told. Pure: the one file that may have to be read is
//! named and read by whoever opens the replica.
//!
//! Of the places that may hold a value the first counts: the replica's own key,
//! the global key, the URL, the environment. Where Litestream has exceptions to
//! that, they are exceptions here too; each is marked.

mod asked;
mod place;
mod requests;
mod secrets;

use std::io;
use std::path::{Path, PathBuf};

use super::check::Warning;
use super::error::Error;
use super::url::key_prefix;
use crate::storage::Key;
use crate::storage::s3::providers::{self, Located};
use crate::storage::s3::{COPY_SIZE, Encryption, Options};

pub(crate) use asked::Asked;

use secrets::{KEY_REASON, customer_key};

/// The settings of a replica in S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// Complete but for a key in a file.
    options: Options,
    /// The file with the key that encrypts objects.
    key_file: Option<PathBuf>,
    /// Prefixes of keys, each to be taken as it is: the one that is configured,
    /// then those that other spellings of it lead to.
    pub roots: Vec<Key>,
    /// The service honours the condition that a name must be free.
    pub conditional_writes: bool,
}

impl S3Settings {
    /// Everything the storage is told; `read` reads a file.
    pub fn options(&self, read: impl FnOnce(&Path) -> io::Result<String>) -> Result<Options, Error> {
        let Some(path) = &self.key_file else { return Ok(self.options.clone()) };
        let field = |reason: &str| Error::field("sse-customer-key-path", reason, &path.display().to_string());
        let text = read(path).map_err(|error| field(&format!("cannot be read: {error}")))?;
        let key = customer_key(text.trim()).ok_or_else(|| field(KEY_REASON))?;
        let Encryption::Customer { algorithm, .. } = &self.options.encryption else {
            unreachable!("only a customer's key comes from a file")
        };
        let encryption = Encryption::Customer { algorithm: algorithm.clone(), key };
        Ok(Options { encryption, ..self.options.clone() })
    }

    /// A place below this one.
    pub(crate) fn within(&self, relative: &str) -> Result<Self, Error> {
        let base = self.roots.first().map_or("", Key::as_str);
        let below = match base.trim_end_matches('/') {
            "" | "." => relative.to_owned(),
            base => format!("{base}/{relative}"),
        };
        Ok(Self { roots: roots(&below)?, ..self.clone() })
    }

    /// The same text for every spelling of one place.
    pub fn place(&self) -> String {
        let endpoint = self.options.endpoint.as_deref().unwrap_or("aws");
        let root = key_prefix(self.roots.first().map_or("", Key::as_str));
        let root = if root == "." { "" } else { root.trim_matches('/') };
        format!("{endpoint}/{}/{root}", self.options.bucket)
    }

    /// The service: replicas in one bucket of AWS, or behind one endpoint, share it.
    pub fn service(&self) -> String {
        self.options.endpoint.clone().unwrap_or_else(|| format!("s3://{}", self.options.bucket))
    }

    /// Where it is, for people.
    pub fn location(&self) -> String {
        let root = self.roots.first().map_or("", Key::as_str);
        format!("s3://{}/{}", self.options.bucket, if root == "." { "" } else { root })
    }
}

/// Turns what is asked for into settings.
pub(crate) fn settings(asked: &Asked<'_>, warnings: &mut Vec<Warning>) -> Result<S3Settings, Error> {
    if let Some(url) = asked.url {
        asked.check_url(url, warnings);
    }
    let located = match asked.url {
        Some(url) => providers::locate(&url.host),
        // With a URL, a global bucket belongs to other replicas.
        None => Located { bucket: asked.text("bucket").map(str::to_owned), ..Located::default() },
    };
    let bucket = located.bucket.clone().ok_or_else(|| Error::invalid("bucket required for s3 replica"))?;
    let endpoint = asked.endpoint(&located)?;
    let provider = endpoint.url.as_deref().and_then(providers::of_endpoint);
    let region = asked.region(&located, &bucket, &endpoint, provider);
    let (encryption, key_file) = asked.encryption(endpoint.url.as_deref())?;
    let headers = asked.headers(provider)?;
    let options = Options {
        path_style: asked.path_style(&located, &endpoint, provider),
        skip_verify: asked.skip_verify(),
        sign_payload: asked.switch("sign-payload", &["signPayload", "sign-payload"]).unwrap_or(true),
        content_md5: asked
            .switch("require-content-md5", &["requireContentMD5", "require-content-md5"])
            .unwrap_or_else(|| provider.is_none_or(|provider| provider.content_md5)),
        // Compatibles tend to refuse them, AWS asks for them.
        checksums: asked.switch("checksums", &["checksums"]).unwrap_or(endpoint.url.is_none()),
        storage_class: asked.value("storage-class", &["storageClass", "storage-class"]).map(str::to_owned),
        part_size: asked.part_size()?,
        copy_size: COPY_SIZE,
        concurrency: asked.concurrency(provider)?,
        tags: asked.tags()?,
        credentials: asked.credentials(warnings),
        endpoint: endpoint.url,
        bucket,
        region,
        encryption,
        headers,
    };
    let configured = asked.url.map_or_else(|| asked.section.text("path").unwrap_or_default(), |url| &url.path);
    let conditional_writes = asked
        .switch("conditional-writes", &["conditionalWrites", "conditional-writes"])
        .unwrap_or_else(|| provider.is_none_or(|provider| provider.conditional_writes));
    Ok(S3Settings { options, key_file, roots: roots(configured)?, conditional_writes })
}

/// The configured prefix, then what other spellings of it lead to: the bucket
/// alone, with a slash, a path with a slash before or behind it all make
/// Litestream write under different keys.
fn roots(configured: &str) -> Result<Vec<Key>, Error> {
    let wrong = |error: crate::storage::KeyError| Error::invalid(format!("path: {error}"));
    let plain = key_prefix(configured);
    let plain = plain.trim_matches('/');
    let others = match plain {
        "" | "." => vec![".".to_owned(), String::new()],
        plain => vec![plain.to_owned(), format!("{plain}/"), format!("/{plain}")],
    };
    let mut roots = vec![Key::new(configured).map_err(wrong)?];
    for other in others {
        let other = Key::new(other).map_err(wrong)?;
        if !roots.contains(&other) {
            roots.push(other);
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
