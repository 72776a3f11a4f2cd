//! What is sent: the sizes of parts, how many at once, tags and headers. Pure.
//!
//! Always true: what S3 is known to refuse is refused here.

use super::asked::Asked;
use crate::config::error::Error;
use crate::config::size;
use crate::storage::s3::providers::{CONCURRENCY, Provider};

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

impl Asked<'_> {
    pub(super) fn part_size(&self) -> Result<u64, Error> {
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

    pub(super) fn concurrency(&self, provider: Option<&Provider>) -> Result<usize, Error> {
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

    pub(super) fn tags(&self) -> Result<Vec<(String, String)>, Error> {
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

    /// What the service wants, and over it what was asked for.
    pub(super) fn headers(&self, provider: Option<&Provider>) -> Result<Vec<(String, String)>, Error> {
        let of_service = provider.map_or(&[][..], |provider| provider.headers);
        let mut headers: Vec<_> =
            of_service.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (name, value) in self.own_headers()? {
            headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
            headers.push((name, value));
        }
        Ok(headers)
    }

    /// Values of headers may be secrets, so none is shown.
    fn own_headers(&self) -> Result<Vec<(String, String)>, Error> {
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
}
