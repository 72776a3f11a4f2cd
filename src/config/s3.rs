//! From the keys of a replica, its URL, the global defaults and the environment
//! to what an S3 storage is told. Pure: the one file that may have to be read is
//! named and read by whoever opens the replica.
//!
//! Of the places that may hold a value the first counts: the replica's own key,
//! the global key, the URL, the environment. Where Litestream has exceptions to
//! that, they are exceptions here too; each is marked.

use std::io;
use std::path::{Path, PathBuf};

use super::check::{Warning, WarningKind};
use super::env::Environment;
use super::error::Error;
use super::paths::absolute;
use super::section::Section;
use super::size;
use super::url::{ReplicaUrl, key_prefix};
use crate::storage::Key;
use crate::storage::s3::providers::{self, CONCURRENCY, Located, Provider};
use crate::storage::s3::{COPY_SIZE, Credentials, Encryption, Options};
use crate::types::Secret;

/// Below this S3 refuses every part but the last.
const LEAST_PART: u64 = 5 * 1024 * 1024;

/// Above this it refuses all of them.
const LARGEST_PART: u64 = 5 * 1024 * 1024 * 1024;

/// The most tags of an object.
const MOST_TAGS: usize = 10;

/// Headers that make the request itself, so that nobody may set them.
const RESERVED_HEADERS: [&str; 8] = [
    "authorization",
    "content-length",
    "host",
    "if-match",
    "if-none-match",
    "range",
    "transfer-encoding",
    "x-amz-content-sha256",
];

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

const KEY_REASON: &str = "must hold 32 bytes in base64";

/// What is known about one replica.
pub(crate) struct Asked<'a> {
    pub(crate) section: Section<'a>,
    pub(crate) global: Section<'a>,
    pub(crate) url: Option<&'a ReplicaUrl>,
    pub(crate) environment: &'a Environment,
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
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in provider.map_or(&[][..], |provider| provider.headers) {
        headers.push(((*name).to_owned(), (*value).to_owned()));
    }
    for (name, value) in asked.headers()? {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        headers.push((name, value));
    }
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

/// An endpoint and where it comes from.
struct Endpoint {
    url: Option<String>,
    /// Somebody wrote it down as an endpoint: it was not made from a host that
    /// holds the bucket.
    explicit: Explicit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Explicit {
    No,
    /// In the URL's query.
    Query,
    /// As a key, or in the environment.
    Setting,
}

impl<'a> Asked<'a> {
    /// The replica's own key or the global one.
    fn text(&self, key: &str) -> Option<&'a str> {
        self.section.text(key).or_else(|| self.global.text(key))
    }

    fn parameter(&self, spellings: &[&str]) -> Option<&'a str> {
        self.url?.parameter(spellings).filter(|value| !value.is_empty())
    }

    /// A key, or else a parameter.
    fn value(&self, key: &str, spellings: &[&str]) -> Option<&'a str> {
        self.text(key).or_else(|| self.parameter(spellings))
    }

    fn bool(&self, key: &str) -> Option<bool> {
        self.section.bool(key).or_else(|| self.global.bool(key))
    }

    fn switch(&self, key: &str, spellings: &[&str]) -> Option<bool> {
        self.bool(key).or_else(|| self.parameter(spellings).map(is_true))
    }

    /// What in a URL will not do what its author expects.
    fn check_url(&self, url: &ReplicaUrl, warnings: &mut Vec<Warning>) {
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

    fn endpoint(&self, located: &Located) -> Result<Endpoint, Error> {
        if let Some(text) = self.text("endpoint") {
            let url = endpoint("endpoint", text, |_| "https")?;
            return Ok(Endpoint { url: Some(url), explicit: Explicit::Setting });
        }
        let near_or_far = |text: &str| if providers::is_local(text) { "http" } else { "https" };
        if let Some(text) = self.parameter(&["endpoint"]) {
            let url = endpoint("endpoint", text, near_or_far)?;
            return Ok(Endpoint { url: Some(url), explicit: Explicit::Query });
        }
        if located.endpoint.is_some() {
            return Ok(Endpoint { url: located.endpoint.clone(), explicit: Explicit::No });
        }
        let ignored = self.environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(is_true);
        let aws = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().filter(|_| !ignored);
        let set = |name| Some((name, self.environment.get(name)?));
        match ["LITESTREAM_S3_ENDPOINT"].into_iter().chain(aws).find_map(set) {
            // A host of AWS was spelled out.
            Some(_) if self.url.is_some_and(|url| located.bucket.as_ref() != Some(&url.host)) => {
                Ok(Endpoint { url: None, explicit: Explicit::No })
            }
            Some((name, text)) => {
                let url = endpoint(name, text, near_or_far)?;
                Ok(Endpoint { url: Some(url), explicit: Explicit::Setting })
            }
            None => Ok(Endpoint { url: None, explicit: Explicit::No }),
        }
    }

    /// `None` leaves it to be found out.
    fn region(
        &self,
        located: &Located,
        bucket: &str,
        endpoint: &Endpoint,
        provider: Option<&Provider>,
    ) -> Option<String> {
        let said = self.value("region", &["region"]).map(str::to_owned);
        let in_names = || located.region.clone().or_else(|| providers::access_point_region(bucket).map(str::to_owned));
        let in_endpoint = || endpoint.url.as_deref().and_then(providers::region_of_endpoint);
        // Before the environment: on a machine of AWS that names a region of AWS.
        let of_provider = || provider.and_then(|provider| provider.region).map(str::to_owned);
        let around = || ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| self.environment.get(name));
        let default = || endpoint.url.is_some().then(|| "us-east-1".to_owned());
        said.or_else(in_names)
            .or_else(in_endpoint)
            .or_else(of_provider)
            .or_else(|| around().map(str::to_owned))
            .or_else(default)
    }

    /// Whether the bucket stands in the path. The exceptions are Litestream's:
    /// `false` in a key does not undo what a URL implies, `false` in a URL does not
    /// undo what a key or a service implies.
    fn path_style(&self, located: &Located, endpoint: &Endpoint, provider: Option<&Provider>) -> bool {
        let in_url = self.parameter(&["forcePathStyle", "force-path-style"]).map(is_true);
        let self_run = endpoint.url.as_deref().is_some_and(providers::is_self_run);
        let of_service = self_run || provider.is_some_and(|provider| provider.path_style);
        match (self.bool("force-path-style"), in_url) {
            (Some(true), _) | (_, Some(true)) => true,
            (Some(false), _) => located.path_style,
            (None, Some(false)) => of_service || endpoint.explicit == Explicit::Setting,
            (None, None) => of_service || located.path_style || endpoint.explicit != Explicit::No,
        }
    }

    /// In this one the URL counts first.
    fn skip_verify(&self) -> bool {
        let in_url = self.parameter(&["skipVerify", "skip-verify"]).map(is_true);
        in_url.or_else(|| self.bool("skip-verify")).unwrap_or(false)
    }

    fn part_size(&self) -> Result<u64, Error> {
        let key = self.section.size("part-size").or_else(|| self.global.size("part-size")).filter(|size| *size > 0);
        let in_url = || {
            let text = self.parameter(&["partSize", "part-size"])?;
            let size = size::parse(text).filter(|size| *size > 0);
            Some(size.ok_or_else(|| Error::field("part-size", "must be a number of bytes", text)))
        };
        let size = key.map(Ok).or_else(in_url).transpose()?.unwrap_or(LEAST_PART);
        match size {
            LEAST_PART..=LARGEST_PART => Ok(size),
            _ => Err(Error::field("part-size", "must be between 5MiB and 5GiB", &size.to_string())),
        }
    }

    fn concurrency(&self, provider: Option<&Provider>) -> Result<usize, Error> {
        let wrong = |text: &str| Error::field("concurrency", "must be greater than 0", text);
        let key = self.section.int("concurrency").or_else(|| self.global.int("concurrency")).filter(|n| *n != 0);
        if let Some(number) = key {
            return usize::try_from(number).map_err(|_| wrong(&number.to_string()));
        }
        match self.parameter(&["concurrency"]) {
            Some(text) => text.parse().ok().filter(|number| *number > 0).ok_or_else(|| wrong(text)),
            None => Ok(provider.map_or(CONCURRENCY, |provider| provider.concurrency)),
        }
    }

    /// Static credentials need both halves. The token belongs to the pair beside it.
    fn credentials(&self, warnings: &mut Vec<Warning>) -> Option<Credentials> {
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
    fn encryption(&self, endpoint: Option<&str>) -> Result<(Encryption, Option<PathBuf>), Error> {
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

    fn tags(&self) -> Result<Vec<(String, String)>, Error> {
        let tags = self.pairs("tags");
        if tags.len() > MOST_TAGS {
            return Err(Error::field("tags", "an object has at most 10 tags", &tags.len().to_string()));
        }
        for (name, value) in &tags {
            if name.is_empty() || name.chars().count() > 128 || value.chars().count() > 256 {
                let reason = "names have 1 to 128 characters and values at most 256";
                return Err(Error::field("tags", reason, name));
            }
        }
        Ok(tags)
    }

    /// Values of headers may be secrets, so none is shown.
    fn headers(&self) -> Result<Vec<(String, String)>, Error> {
        let headers = self.pairs("headers");
        for (name, value) in &headers {
            let field = |reason: &str| Error::field("headers", reason, name);
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(field("not the name of a header"));
            }
            if RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
                return Err(field("this header belongs to the request itself"));
            }
            if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                return Err(field("values have only visible ASCII characters"));
            }
        }
        Ok(headers)
    }

    /// The replica's own map, or the global one; they are not mixed.
    fn pairs(&self, key: &str) -> Vec<(String, String)> {
        self.section.pairs(key).or_else(|| self.global.pairs(key)).unwrap_or_default()
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

fn is_true(text: &str) -> bool {
    ["1", "t", "true", "y", "yes"].iter().any(|yes| yes.eq_ignore_ascii_case(text))
}

/// An endpoint with its scheme, and without a slash at the end.
fn endpoint(name: &str, text: &str, scheme: impl Fn(&str) -> &'static str) -> Result<String, Error> {
    let url = match text.split_once("://") {
        Some(_) => text.to_owned(),
        None => format!("{}://{text}", scheme(text)),
    };
    let field = |reason: &str, got: &str| Err(Error::field(name, reason, got));
    let Some(("http" | "https", rest)) = url.split_once("://") else {
        return field("must be a URL with http or https", text);
    };
    if rest.contains('@') {
        return field("must not hold a user name or password", "***");
    }
    if rest.is_empty() || rest.starts_with('/') || rest.contains(|c: char| c.is_whitespace() || c == '?' || c == '#') {
        return field("must be a URL with a host, such as https://s3.example.com", text);
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn customer_key(text: &str) -> Option<Secret> {
    let bytes = aws_smithy_types::base64::decode(text).ok()?;
    (bytes.len() == 32).then(|| Secret::new(text))
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
