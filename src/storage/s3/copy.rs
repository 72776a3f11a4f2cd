//! Copies that the service makes by itself.
//!
//! Always true: the copy has the content, the time, and what the options say of
//! every object (class, tags, encryption); a taken name is left alone, as far as
//! the service honours conditions, and otherwise as far as a look before can tell.

use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{CompletedPart, TaggingDirective};
use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::{Error, ErrorKind, Key, Operation, Progress, Put, PutOptions, Result};
use super::failure::Failure;
use super::multipart::{self, Sent};
use super::read::timestamp;
use super::{Bucket, Client};

/// What travels unencoded in the name of a source.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

pub(super) async fn copy(bucket: &Arc<Bucket>, from: &Key, to: &Key) -> Result<bool> {
    let Some(source) = bucket.looked_at(from).await? else { return Ok(false) };
    match bucket.head(to).await {
        Ok(_) => return Err(Error::exists(to)),
        Err(failure) if failure.verdict().kind == ErrorKind::Missing => {}
        // Who may not list is not told that a name is free.
        Err(failure) if failure.verdict().kind == ErrorKind::Refused => return Ok(false),
        Err(failure) => return Err(bucket.failed("look at", to)(failure)),
    }
    let size = source.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
    let copied = if size <= bucket.options.copy_size {
        bucket.copy_whole(from, to).await
    } else {
        let options = PutOptions { how: Put::New, timestamp: timestamp(&source) };
        multipart::with_upload(bucket, to, options, async |upload| {
            upload.bucket.copy_parts(from, to, &upload.id, size).await
        })
        .await
    };
    match copied {
        Ok(()) => Ok(true),
        Err(error) if error.kind == ErrorKind::Refused => {
            tracing::debug!(%error, "this service does not copy objects");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

impl Bucket {
    /// `None`: it may not be looked at.
    async fn looked_at(&self, key: &Key) -> Result<Option<HeadObjectOutput>> {
        match self.look(key).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.verdict().kind == ErrorKind::Refused => Ok(None),
            Err(failure) => Err(self.failed("look at", key)(failure)),
        }
    }

    /// The source as the service wants it named.
    fn source(&self, key: &Key) -> String {
        let inside = if self.name().starts_with("arn:") { "/object/" } else { "/" };
        format!("{}{inside}{}", self.name(), utf8_percent_encode(key.as_str(), PLAIN))
    }

    async fn copy_whole(&self, from: &Key, to: &Key) -> Result<()> {
        let source = self.source(from);
        let request = |client: Client| {
            let request = client.copy_object().bucket(self.name()).key(to.as_str()).copy_source(&source);
            let (algorithm, secret, digest) = self.customer_key();
            let request = request.set_copy_source_sse_customer_algorithm(algorithm.clone());
            let request = request.set_copy_source_sse_customer_key(secret.clone());
            let request = request.set_copy_source_sse_customer_key_md5(digest.clone());
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            let (encryption, kms_key) = self.kms_key();
            let request = request.set_sse_customer_key_md5(digest).set_server_side_encryption(encryption);
            let request = request.set_ssekms_key_id(kms_key).set_storage_class(self.storage_class());
            let tags = self.tags();
            let request = request.set_tagging_directive(tags.is_some().then_some(TaggingDirective::Replace));
            // S3 knows this condition for copies too, the SDK does not yet.
            let request = request.set_tagging(tags).customize().mutate_request(|request| {
                request.headers_mut().insert("if-none-match", "*");
            });
            request.send()
        };
        match self.send(Operation::Put, request).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_taken() => Err(Error::exists(to)),
            Err(failure) => Err(self.failed("copy", from)(failure)),
        }
    }

    async fn copy_parts(&self, from: &Key, to: &Key, id: &str, size: u64) -> Result<Sent> {
        let step = self.options.copy_size;
        let count = i32::try_from(size.div_ceil(step)).unwrap_or(i32::MAX);
        let parts = (1..=count).map(|number| self.copy_part(from, to, id, number, size));
        let parts: Vec<CompletedPart> =
            stream::iter(parts).buffered(self.options.concurrency.max(1)).try_collect().await?;
        Ok(Sent { parts, length: size })
    }

    async fn copy_part(&self, from: &Key, to: &Key, id: &str, number: i32, size: u64) -> Result<CompletedPart> {
        let (source, step) = (self.source(from), self.options.copy_size);
        let start = u64::from(number.unsigned_abs() - 1) * step;
        let end = size.min(start + step) - 1;
        let request = |client: Client| {
            let request = client.upload_part_copy().bucket(self.name()).key(to.as_str()).upload_id(id);
            let request = request.part_number(number).copy_source(&source);
            let request = request.copy_source_range(format!("bytes={start}-{end}"));
            let (algorithm, secret, digest) = self.customer_key();
            let request = request.set_copy_source_sse_customer_algorithm(algorithm.clone());
            let request = request.set_copy_source_sse_customer_key(secret.clone());
            let request = request.set_copy_source_sse_customer_key_md5(digest.clone());
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            request.set_sse_customer_key_md5(digest).send()
        };
        let failed = self.failed("copy", from);
        let answer = self.send(Operation::Put, request).await.map_err(&failed)?;
        Progress::current().moved();
        let result = answer.copy_part_result().ok_or_else(|| failed(Failure::broken("the answer names no part")))?;
        let tag = result.e_tag().ok_or_else(|| failed(Failure::broken("the answer has no ETag")))?;
        let part = CompletedPart::builder().part_number(number).e_tag(tag);
        Ok(part.set_checksum_crc32(result.checksum_crc32().map(str::to_owned)).build())
    }
}
