//! Storing an object in one request, or the choice of several.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use aws_smithy_types::base64;
use bytes::Bytes;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::{Body, Error, ErrorKind, Key, Operation, Put, PutOptions, Result};
use super::parts::{Sizes, Source};
use super::{Bucket, Encryption, multipart};
use crate::types::Secret;

/// The metadata that carries the time of the content, as Litestream names it.
pub(super) const TIMESTAMP: &str = "litestream-timestamp";

pub(super) async fn put(bucket: &Arc<Bucket>, key: &Key, body: Body, options: PutOptions) -> Result<()> {
    if *key == Key::ROOT {
        return Err(Error::new(ErrorKind::Refused, "an object needs a name"));
    }
    let mut source = Source::open(body).await?;
    let sizes = Sizes::of(bucket.options.part_size, source.length());
    let first = source.next(sizes.of_part(0), key).await?;
    if first.len() < sizes.of_part(0) {
        bucket.put_whole(key, first, options).await
    } else {
        multipart::put(bucket, key, multipart::Parts { first, source, sizes }, options).await
    }
}

impl Bucket {
    async fn put_whole(&self, key: &Key, content: Bytes, options: PutOptions) -> Result<()> {
        let request = |client: aws_sdk_s3::Client| {
            let request = client.put_object().bucket(self.name()).key(key.as_str());
            let request = request.body(ByteStream::from(content.clone())).set_if_none_match(condition(options.how));
            let (algorithm, secret, digest) = self.customer_key();
            let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(secret);
            let (encryption, kms_key) = self.kms_key();
            let request = request.set_sse_customer_key_md5(digest).set_server_side_encryption(encryption);
            let request = request.set_ssekms_key_id(kms_key).set_storage_class(self.storage_class());
            let request = request.set_tagging(self.tags()).set_metadata(metadata(options)).customize();
            let signed = self.options.sign_payload;
            async move { if signed { request.send().await } else { request.disable_payload_signing().send().await } }
        };
        self.counts.moved(Operation::Put, content.len());
        match self.send(Operation::Put, request).await {
            Ok(_) => Ok(()),
            Err(failure) if options.how == Put::New && failure.is_taken() => Err(Error::exists(key)),
            Err(failure) => Err(self.failed("store", key)(failure)),
        }
    }

    pub(super) fn kms_key(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        let Encryption::Kms { key_id } = &self.options.encryption else { return (None, None) };
        (Some(ServerSideEncryption::AwsKms), Some(key_id.clone()))
    }

    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        self.options.storage_class.as_deref().map(StorageClass::from)
    }

    /// Tags as a query string.
    pub(super) fn tags(&self) -> Option<String> {
        const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
        let encoded = |text: &str| utf8_percent_encode(text, PLAIN).to_string();
        let tags: Vec<_> =
            self.options.tags.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        (!tags.is_empty()).then(|| tags.join("&"))
    }
}

/// What the service must check before it stores anything.
pub(super) fn condition(how: Put) -> Option<String> {
    (how == Put::New).then(|| "*".to_owned())
}

pub(super) fn metadata(options: PutOptions) -> Option<std::collections::HashMap<String, String>> {
    options.timestamp.map(|time| [(TIMESTAMP.to_owned(), time.to_string())].into())
}

/// The MD5 of a customer's key, by which the service sees that it came over
/// whole. A key that is not base64 is the service's to refuse.
pub(super) fn key_digest(key: &Secret) -> String {
    base64::encode(Md5::digest(base64::decode(key.reveal()).unwrap_or_default()))
}
