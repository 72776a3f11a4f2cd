//! Storing an object in parts.
//!
//! Always true: of one upload no more than `concurrency` parts of `part_size`
//! bytes are in memory, beside the one being read (parts that grew count for
//! several); an upload that does not come to its end is given up, also when
//! nobody waits for it any more; success is only what the service confirmed, or
//! what can be seen to be there by the digest of its parts.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use md5::{Digest, Md5};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::super::retry::watched;
use super::super::{Error, ErrorKind, Key, Operation, Progress, Put, PutOptions, Result};
use super::Bucket;
use super::failure::Failure;
use super::parts::{MOST_PARTS, Sizes, Source};
use super::put::{condition, metadata};

/// Attempts at one part, and at joining the parts. A stream cannot be had a
/// second time, so one lost part would cost the whole upload.
const TRIES: u32 = 5;

/// The wait before the second attempt; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Giving up an upload is a courtesy; nobody waits longer for it.
const ABORT_PATIENCE: Duration = Duration::from_secs(10);

/// A body that is too long for one request.
pub(super) struct Parts {
    /// The first part, already read.
    pub(super) first: Bytes,
    /// What comes after it.
    pub(super) source: Source,
    pub(super) sizes: Sizes,
}

pub(super) async fn put(bucket: &Arc<Bucket>, key: &Key, parts: Parts, options: PutOptions) -> Result<()> {
    with_upload(bucket, key, options, async |upload| upload.send(parts).await).await
}

/// Begins an upload, has `send` store its parts, and joins them, or gives it up.
pub(super) async fn with_upload(
    bucket: &Arc<Bucket>,
    key: &Key,
    options: PutOptions,
    send: impl AsyncFnOnce(&Upload) -> Result<Sent>,
) -> Result<()> {
    let id = bucket.begin(key, options).await?;
    let upload = Upload { bucket: Arc::clone(bucket), key: key.clone(), id };
    let guard = GiveUp(Some(upload.clone()));
    let outcome = match send(&upload).await {
        Ok(sent) => upload.join(sent, options.how).await,
        Err(e) => Err(e),
    };
    guard.done(outcome.is_ok()).await;
    outcome
}

impl Bucket {
    async fn begin(&self, key: &Key, options: PutOptions) -> Result<String> {
        let request = |client: aws_sdk_s3::Client| {
            let request = client.create_multipart_upload().bucket(self.name()).key(key.as_str());
            let (algorithm, secret, digest) = self.customer_key();
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            let (encryption, kms_key) = self.kms_key();
            let request = request.set_sse_customer_key_md5(digest).set_server_side_encryption(encryption);
            let request = request.set_ssekms_key_id(kms_key).set_storage_class(self.storage_class());
            // Parts may only carry checksums of the kind that was announced.
            let checksum = self.options.checksums.then_some(ChecksumAlgorithm::Crc32);
            let request = request.set_checksum_algorithm(checksum);
            request.set_tagging(self.tags()).set_metadata(metadata(options)).send()
        };
        let failed = self.failed("begin to store", key);
        let answer = self.send(Operation::Put, request).await.map_err(&failed)?;
        answer.upload_id.ok_or_else(|| failed(Failure::broken("the answer names no upload")))
    }
}

/// An upload that the service knows of.
#[derive(Clone)]
pub(super) struct Upload {
    pub(super) bucket: Arc<Bucket>,
    key: Key,
    pub(super) id: String,
}

/// What the service confirmed.
pub(super) struct Sent {
    pub(super) parts: Vec<CompletedPart>,
    pub(super) length: u64,
}

impl Upload {
    /// Sends all parts, several at once.
    async fn send(&self, parts: Parts) -> Result<Sent> {
        let concurrency = self.bucket.options.concurrency.max(1);
        let memory = Arc::new(Semaphore::new(concurrency));
        let Parts { first, source, sizes } = parts;
        let reader =
            Reader { first: Some(first), source, sizes, number: 0, memory, concurrency, key: self.key.clone() };
        let read = stream::try_unfold(reader, Reader::next);
        let mut parts: Vec<(CompletedPart, u64)> =
            read.map_ok(|part| self.send_part(part)).try_buffer_unordered(concurrency).try_collect().await?;
        parts.sort_by_key(|(part, _)| part.part_number());
        let length = parts.iter().map(|(_, length)| length).sum();
        Ok(Sent { parts: parts.into_iter().map(|(part, _)| part).collect(), length })
    }

    async fn send_part(&self, part: Part) -> Result<(CompletedPart, u64)> {
        let Part { number, content, memory } = part;
        let request = |client: aws_sdk_s3::Client| {
            let bucket = &self.bucket;
            let request = client.upload_part().bucket(bucket.name()).key(self.key.as_str()).upload_id(&self.id);
            let request = request.part_number(number).body(ByteStream::from(content.clone()));
            let (algorithm, secret, digest) = bucket.customer_key();
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            let checksum = bucket.options.checksums.then_some(ChecksumAlgorithm::Crc32);
            let request = request.set_sse_customer_key_md5(digest).set_checksum_algorithm(checksum).customize();
            let signed = bucket.options.sign_payload;
            async move { if signed { request.send().await } else { request.disable_payload_signing().send().await } }
        };
        let what = format!("store part {number} of");
        let failed = self.bucket.failed(&what, &self.key);
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            // Watched by itself: the other parts would show signs of life for one that hangs.
            let progress = Progress::current().part();
            self.bucket.counts.moved(Operation::Put, content.len());
            let sent = watched(progress, async { Ok(self.bucket.send(Operation::Put, request).await) }).await;
            let error = match sent {
                Ok(Ok(answer)) => {
                    drop(memory);
                    let tag = answer.e_tag.ok_or_else(|| failed(Failure::broken("the answer has no ETag")))?;
                    let part = CompletedPart::builder().part_number(number).e_tag(tag);
                    let part = part.set_checksum_crc32(answer.checksum_crc32).build();
                    return Ok((part, content.len() as u64));
                }
                Ok(Err(failure)) => failed(failure),
                Err(silence) => silence,
            };
            if error.kind != ErrorKind::Later || attempt == TRIES {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "a part was not stored, trying again");
            pause(&mut wait).await;
        }
        unreachable!("the last attempt has returned")
    }

    /// Makes the parts an object.
    async fn join(&self, sent: Sent, how: Put) -> Result<()> {
        let whole = CompletedMultipartUpload::builder().set_parts(Some(sent.parts.clone())).build();
        let request = |client: aws_sdk_s3::Client| {
            let request = client.complete_multipart_upload().bucket(self.bucket.name()).key(self.key.as_str());
            let request = request.upload_id(&self.id).set_if_none_match(condition(how));
            request.multipart_upload(whole.clone()).send()
        };
        let failed = self.bucket.failed("join the parts of", &self.key);
        let (mut wait, mut in_doubt) = (FIRST_WAIT, false);
        for attempt in 1.. {
            let Err(failure) = self.bucket.send(Operation::Put, request).await else { return Ok(()) };
            // Joined by an earlier attempt whose answer was lost?
            let ended = failure.is("NoSuchUpload") || failure.is_taken();
            if in_doubt && ended && self.is_there(&sent).await {
                return Ok(());
            }
            if how == Put::New && failure.is_taken() {
                return Err(Error::exists(&self.key));
            }
            if failure.is("NoSuchUpload") {
                let message = format!("the upload of {} was ended by somebody else", self.key);
                return Err(Error::new(ErrorKind::Later, message));
            }
            // Another writer was at it at the same moment: the parts are of no use any more.
            let conflict = failure.status == Some(409);
            if failure.verdict().kind != ErrorKind::Later || conflict || attempt == TRIES {
                return Err(failed(failure));
            }
            in_doubt = true;
            pause(&mut wait).await;
        }
        unreachable!("the last attempt has returned")
    }

    /// Whether the object consists of just these parts. The ETag of such an
    /// object is the digest of its parts' digests, where the service encrypts
    /// nothing; if it does, the answer is no.
    async fn is_there(&self, sent: &Sent) -> bool {
        let expected = joined_tag(sent.parts.iter().filter_map(CompletedPart::e_tag));
        match self.bucket.head(&self.key).await {
            Ok((length, Some(tag))) => length == sent.length && expected.is_some_and(|expected| tag == expected),
            _ => false,
        }
    }
}

/// The ETag of an object that was joined from parts with these tags.
fn joined_tag<'a>(tags: impl Iterator<Item = &'a str>) -> Option<String> {
    let (mut digest, mut count) = (Md5::new(), 0u32);
    for tag in tags {
        let hex = tag.trim_matches('"');
        if hex.len() != 32 {
            return None;
        }
        for at in (0..32).step_by(2) {
            digest.update([u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?]);
        }
        count += 1;
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("\"{hex}-{count}\""))
}

async fn pause(wait: &mut Duration) {
    sleep(*wait).await;
    *wait *= 2;
    // Waiting on purpose is not silence.
    Progress::current().moved();
}

/// Reads parts, and waits before that until there is memory for them.
struct Reader {
    first: Option<Bytes>,
    source: Source,
    sizes: Sizes,
    /// Of the part to be read next, from 0.
    number: u64,
    memory: Arc<Semaphore>,
    concurrency: usize,
    key: Key,
}

/// A part in memory.
struct Part {
    /// From 1.
    number: i32,
    content: Bytes,
    memory: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Part, Self)>> {
        let size = self.sizes.of_part(self.number);
        let turns = (size / self.sizes.of_part(0)).clamp(1, self.concurrency);
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory).acquire_many_owned(turns).await.expect("nobody closes the semaphore");
        let content = match self.first.take() {
            Some(first) => first,
            None => self.source.next(size, &self.key).await?,
        };
        if content.is_empty() {
            return Ok(None);
        }
        if self.number >= MOST_PARTS {
            let message = format!("{} is too long for {MOST_PARTS} parts: choose a larger part-size", self.key);
            return Err(Error::new(ErrorKind::Refused, message));
        }
        self.number += 1;
        let number = i32::try_from(self.number).expect("at most ten thousand");
        Ok(Some((Part { number, content, memory }, self)))
    }
}

/// Gives up the upload it holds, unless that is done.
struct GiveUp(Option<Upload>);

impl GiveUp {
    async fn done(mut self, well: bool) {
        if let Some(upload) = self.0.take()
            && !well
        {
            give_up(upload).await;
        }
    }
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        // Nobody waits for the upload any more. If the program ends as well, `tidy` will find it.
        if let Some(upload) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(give_up(upload));
        }
    }
}

async fn give_up(upload: Upload) {
    let Upload { bucket, key, id } = upload;
    match timeout(ABORT_PATIENCE, bucket.abort(&key, &id)).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) if failure.verdict().kind == ErrorKind::Missing => {}
        Ok(Err(failure)) => {
            let error = bucket.failed("give up the upload of", &key)(failure);
            tracing::debug!(%error, "parts of an upload stay behind for now");
        }
        Err(_) => tracing::debug!(%key, "parts of an upload stay behind for now: no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_joined_parts_is_s3s() {
        // Two parts, "a" and "b": md5(md5("a") + md5("b")).
        let tags = ["\"0cc175b9c0f1b6a831c399e269772661\"", "\"92eb5ffee6ae2fec3ad71c777531578f\""];
        assert_eq!(joined_tag(tags.into_iter()).unwrap(), "\"96e024ba2074fe77e8e965ba43a704be-2\"");
        assert_eq!(joined_tag(["\"not-a-digest\""].into_iter()), None);
    }
}
