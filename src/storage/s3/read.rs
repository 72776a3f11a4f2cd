//! Reads that survive connections which end too early.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use bytes::{Bytes, BytesMut};

use super::super::{Error, ErrorKind, Key, Operation, Result};
use super::failure::Failure;
use super::put::TIMESTAMP;
use super::{Bucket, Encryption};
use crate::types::Timestamp;

/// Requests in a row that may bring less than `ENOUGH` before a read is given up.
const TRIES: u32 = 4;

/// Bytes that make a request worth while: services that cut every connection
/// after a megabyte are read to the end.
const ENOUGH: usize = 64 * 1024;

/// No object is this long; ranges behind it upset services that count in `i64`.
const ABSURD: u64 = 1 << 60;

/// What `put` wrote beside the object.
pub(super) fn timestamp(object: &HeadObjectOutput) -> Option<Timestamp> {
    let time: jiff::Timestamp = object.metadata()?.get(TIMESTAMP)?.parse().ok()?;
    Some(Timestamp::from_millis(time.as_millisecond()))
}

impl Bucket {
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() || range.end > ABSURD {
            let size = self.size(key).await?;
            return if range.start <= range.end && range.end <= size {
                Ok(Bytes::new())
            } else {
                Err(Error::out_of_range(key, &range, size))
            };
        }
        let length = range.end - range.start;
        let wanted = usize::try_from(length).map_err(|_| Error::out_of_range(key, &range, u64::MAX))?;
        let mut bytes = BytesMut::new();
        let (mut seen, mut tries) = (None, 0);
        loop {
            let before = bytes.len();
            let failure = match self.read_on(key, &range, wanted, &mut bytes, &mut seen).await? {
                Ok(()) => return Ok(bytes.freeze()),
                Err(failure) => failure,
            };
            tries = if bytes.len() - before >= ENOUGH { 1 } else { tries + 1 };
            if tries >= TRIES {
                return Err(self.failed("read", key)(failure));
            }
            tracing::debug!(%key, got = bytes.len(), wanted, "a read broke off, resuming");
        }
    }

    /// Reads from where `bytes` ends. The inner error is one that reading on may cure.
    async fn read_on(
        &self,
        key: &Key,
        range: &Range<u64>,
        wanted: usize,
        bytes: &mut BytesMut,
        seen: &mut Option<String>,
    ) -> Result<Result<(), Failure>> {
        let start = range.start + bytes.len() as u64;
        let request = |client: aws_sdk_s3::Client| {
            let request = client.get_object().bucket(self.name()).key(key.as_str());
            let request = request.range(format!("bytes={start}-{}", range.end - 1));
            // Never two objects in one read.
            let request = request.set_if_match(seen.clone());
            let (algorithm, secret, digest) = self.customer_key();
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            request.set_sse_customer_key_md5(digest).send()
        };
        let answer = match self.send(Operation::Get, request).await {
            Ok(answer) => answer,
            Err(failure) if failure.status == Some(416) || failure.is("InvalidRange") => {
                return Err(Error::out_of_range(key, range, self.size(key).await?));
            }
            Err(failure) if seen.is_some() && failure.is_taken() => {
                return Err(Error::new(ErrorKind::Later, format!("{key} was replaced while it was read")));
            }
            // The first request has nothing to resume: its failure is the caller's business.
            Err(failure) if seen.is_some() && failure.verdict().kind == ErrorKind::Later => return Ok(Err(failure)),
            Err(failure) => return Err(self.failed("read", key)(failure)),
        };
        if let Some(size) = whole_size(&answer)
            && range.end > size
        {
            return Err(Error::out_of_range(key, range, size));
        }
        // A service that ignores ranges sends the object from its beginning.
        let mut skip = match content_range(&answer) {
            Some((first, _)) if first == start => 0,
            None if start == 0 => 0,
            None => usize::try_from(start).unwrap_or(usize::MAX),
            Some((first, _)) => {
                let message =
                    format!("cannot read {key} in bucket {}: bytes from {first} came instead of {start}", self.name());
                return Err(Error::new(ErrorKind::Refused, message));
            }
        };
        *seen = answer.e_tag().map(str::to_owned).or(seen.take());
        let mut body = answer.body;
        bytes.reserve(wanted - bytes.len());
        while bytes.len() < wanted {
            match body.next().await {
                Some(Ok(mut chunk)) => {
                    self.counts.moved(Operation::Get, chunk.len());
                    let skipped = skip.min(chunk.len());
                    skip -= skipped;
                    let _ = chunk.split_to(skipped);
                    chunk.truncate(wanted - bytes.len());
                    bytes.extend_from_slice(&chunk);
                }
                Some(Err(e)) => return Ok(Err(Failure::broken(format!("the answer broke off: {e}")))),
                None => return Ok(Err(Failure::broken(format!("{} of {wanted} bytes came", bytes.len())))),
            }
        }
        Ok(Ok(()))
    }

    /// The length of an object.
    async fn size(&self, key: &Key) -> Result<u64> {
        let (size, _) = self.head(key).await.map_err(self.failed("look at", key))?;
        Ok(size)
    }

    /// The length and the ETag of an object.
    pub(super) async fn head(&self, key: &Key) -> Result<(u64, Option<String>), Failure> {
        let answer = self.look(key).await?;
        let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| Failure::broken("the answer has no length"))?;
        Ok((size, answer.e_tag().map(str::to_owned)))
    }

    /// The time that was given when the object was put.
    pub(super) async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        Ok(timestamp(&self.look(key).await.map_err(self.failed("look at", key))?))
    }

    /// What is known of an object.
    pub(super) async fn look(&self, key: &Key) -> Result<HeadObjectOutput, Failure> {
        let request = |client: aws_sdk_s3::Client| {
            let request = client.head_object().bucket(self.name()).key(key.as_str());
            let (algorithm, secret, digest) = self.customer_key();
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            request.set_sse_customer_key_md5(digest).send()
        };
        self.send(Operation::Get, request).await
    }

    /// Algorithm, key and digest, if it is us who keep the key.
    pub(super) fn customer_key(&self) -> (Option<String>, Option<String>, Option<String>) {
        let Encryption::Customer { algorithm, key } = &self.options.encryption else { return (None, None, None) };
        (Some(algorithm.clone()), Some(key.reveal().to_owned()), Some(super::put::key_digest(key)))
    }
}

/// The first byte of an answer and the length of the whole, from `bytes 3-5/10`.
fn content_range(answer: &GetObjectOutput) -> Option<(u64, Option<u64>)> {
    parse_content_range(answer.content_range()?)
}

fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}

/// The length of the object that an answer is a part of.
fn whole_size(answer: &GetObjectOutput) -> Option<u64> {
    match content_range(answer) {
        Some((_, size)) => size,
        None => answer.content_length().and_then(|size| u64::try_from(size).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (text, expected) in [
            ("bytes 3-5/10", Some((3, Some(10)))),
            ("bytes 0-0/*", Some((0, None))),
            ("bytes */10", None),
            ("3-5/10", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }
}
