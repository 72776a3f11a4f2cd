//! What the server keeps: a strict store. Conditions are checked and names are
//! taken under one lock; parts are checked as S3 does; an object stored with a
//! customer's key is shown to nobody without it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{self, ETag, ETagCondition, StreamingBlob};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::server::Shared;

/// An object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) bytes: Bytes,
    pub(crate) etag: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) storage_class: Option<String>,
    pub(crate) tagging: Option<String>,
    pub(crate) kms_key: Option<String>,
    /// The digest of the customer's key.
    pub(crate) customer_key: Option<String>,
    modified: Option<SystemTime>,
}

#[derive(Clone, Debug)]
struct Upload {
    key: String,
    like: Stored,
    /// Parts come with checksums, and are named with them at the end.
    checksums: bool,
    parts: BTreeMap<i32, (String, Bytes, Option<String>)>,
    begun: SystemTime,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, Upload>,
    uploads_begun: u64,
}

#[derive(Debug, Default)]
pub(super) struct Store(Mutex<State>);

impl Store {
    pub(super) fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(super) fn object(&self, key: &str) -> Option<Stored> {
        self.0.lock().unwrap().objects.get(key).cloned()
    }

    pub(super) fn insert(&self, key: &str, bytes: &[u8]) {
        let stored = Stored {
            bytes: Bytes::copy_from_slice(bytes),
            etag: digest(bytes),
            modified: Some(SystemTime::now()),
            ..Stored::default()
        };
        self.0.lock().unwrap().objects.insert(key.into(), stored);
    }

    pub(super) fn uploads(&self) -> Vec<String> {
        self.0.lock().unwrap().uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// As if the unfinished uploads had begun so much earlier.
    pub(super) fn age_uploads(&self, by: std::time::Duration) {
        for upload in self.0.lock().unwrap().uploads.values_mut() {
            upload.begun -= by;
        }
    }
}

impl State {
    fn put(&mut self, key: String, stored: Stored, only_new: bool) -> S3Result<ETag> {
        if only_new && self.objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
        }
        let etag = ETag::Strong(stored.etag.clone());
        self.objects.insert(key, Stored { modified: Some(SystemTime::now()), ..stored });
        Ok(etag)
    }

    fn upload(&mut self, id: &str, key: &str) -> S3Result<&mut Upload> {
        match self.uploads.get_mut(id) {
            Some(upload) if upload.key == key => Ok(upload),
            _ => Err(s3_error!(NoSuchUpload, "The specified upload does not exist")),
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn whole(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|_| s3_error!(IncompleteBody))?);
    }
    Ok(bytes.freeze())
}

/// The digest of a customer's key, once it is seen to be that key's.
fn customer(algorithm: Option<&String>, key: Option<&String>, md5: Option<&String>) -> S3Result<Option<String>> {
    let (Some(algorithm), Some(key), Some(md5)) = (algorithm, key, md5) else { return Ok(None) };
    let raw = aws_smithy_types::base64::decode(key).map_err(|_| s3_error!(InvalidArgument))?;
    let right = aws_smithy_types::base64::encode(Md5::digest(&raw)) == *md5;
    if algorithm != "AES256" || raw.len() != 32 || !right {
        return Err(s3_error!(InvalidArgument, "The secret key was invalid for the specified algorithm"));
    }
    Ok(Some(md5.clone()))
}

fn let_in(stored: &Stored, customer: Option<&String>) -> S3Result<()> {
    match (&stored.customer_key, customer) {
        (None, None) => Ok(()),
        (Some(stored), Some(given)) if stored == given => Ok(()),
        (Some(_), None) => Err(s3_error!(InvalidRequest, "The object was stored using a customer's key")),
        _ => Err(s3_error!(AccessDenied)),
    }
}

fn encoded(text: &str) -> String {
    const PLAIN: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');
    utf8_percent_encode(text, PLAIN).to_string().replace(' ', "+")
}

/// The S3 operations on the store.
pub(super) struct Front(pub(super) Arc<Shared>);

impl Front {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.store.0.lock().unwrap()
    }

    /// What is to be copied, if its key is given.
    fn source(
        &self,
        source: &dto::CopySource,
        algorithm: Option<&String>,
        key: Option<&String>,
        md5: Option<&String>,
    ) -> S3Result<Stored> {
        let dto::CopySource::Bucket { key: name, .. } = source else { return Err(s3_error!(NotImplemented)) };
        let stored = self.state().objects.get(&**name).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        let_in(&stored, customer(algorithm, key, md5)?.as_ref())?;
        Ok(stored)
    }

    fn only_new(&self, condition: Option<&ETagCondition>) -> S3Result<bool> {
        if self.0.faults().ignore_conditions {
            return Ok(false);
        }
        match condition {
            None => Ok(false),
            Some(ETagCondition::Any) => Ok(true),
            Some(ETagCondition::ETag(_)) => Err(s3_error!(NotImplemented)),
        }
    }
}

/// The digest of the customer's key that a request carries. The requests are
/// types of their own with nothing but the names of these fields in common.
macro_rules! customer_of {
    ($input:expr) => {
        customer(
            $input.sse_customer_algorithm.as_ref(),
            $input.sse_customer_key.as_ref(),
            $input.sse_customer_key_md5.as_ref(),
        )?
    };
}

/// What a request says is to be copied.
macro_rules! source_of {
    ($front:expr, $input:expr) => {
        $front.source(
            &$input.copy_source,
            $input.copy_source_sse_customer_algorithm.as_ref(),
            $input.copy_source_sse_customer_key.as_ref(),
            $input.copy_source_sse_customer_key_md5.as_ref(),
        )?
    };
}

/// Where the page behind `place` begins.
type Page<T> = (Vec<T>, Option<String>);

#[async_trait::async_trait]
impl S3 for Front {
    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let input = request.input;
        let bytes = whole(input.body).await?;
        let customer_key = customer_of!(input);
        let stored = Stored {
            etag: digest(&bytes),
            bytes,
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            tagging: input.tagging,
            kms_key: input.ssekms_key_id,
            customer_key,
            modified: None,
        };
        let only_new = self.only_new(input.if_none_match.as_ref())?;
        let etag = self.state().put(input.key, stored, only_new)?;
        Ok(S3Response::new(dto::PutObjectOutput { e_tag: Some(etag), ..Default::default() }))
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let input = request.input;
        let hidden = self.0.faults().hide.as_ref() == Some(&input.key);
        let stored = self.state().objects.get(&input.key).filter(|_| !hidden).cloned();
        let stored = stored.ok_or_else(|| s3_error!(NoSuchKey))?;
        let key = customer_of!(input);
        let_in(&stored, key.as_ref())?;
        Ok(S3Response::new(dto::HeadObjectOutput {
            content_length: Some(stored.bytes.len().try_into().unwrap()),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: stored.modified.map(Into::into),
            metadata: Some(stored.metadata.into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let input = request.input;
        let stored = self.state().objects.get(&input.key).cloned();
        let stored = stored.ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))?;
        let key = customer_of!(input);
        let_in(&stored, key.as_ref())?;
        if let Some(ETagCondition::ETag(wanted)) = &input.if_match
            && wanted.value() != stored.etag
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let size = stored.bytes.len() as u64;
        let mut output = dto::GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: stored.modified.map(Into::into),
            metadata: Some(stored.metadata.into_iter().collect()),
            ..Default::default()
        };
        let mut bytes = stored.bytes;
        let mut status = None;
        if let Some(range) = input.range.filter(|_| !self.0.faults().ignore_ranges) {
            let range = range.check(size).map_err(|_| s3_error!(InvalidRange))?;
            output.content_range = Some(format!("bytes {}-{}/{size}", range.start, range.end - 1));
            bytes = bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
            status = Some(hyper::StatusCode::PARTIAL_CONTENT);
        }
        output.content_length = Some(bytes.len().try_into().unwrap());
        let pieces: Vec<_> = (0..bytes.len())
            .step_by(16 * 1024)
            .map(|at| Ok::<_, std::io::Error>(bytes.slice(at..bytes.len().min(at + 16 * 1024))))
            .collect();
        output.body = Some(StreamingBlob::wrap(stream::iter(pieces)));
        let mut response = S3Response::new(output);
        response.status = status;
        Ok(response)
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        // A token says behind which name the next page begins.
        let after = input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default();
        let most =
            usize::try_from(input.max_keys.unwrap_or(1000)).unwrap().min(self.0.faults().list_page.unwrap_or(1000));
        let url = input.encoding_type.is_some();
        let shown = |name: &str| if url { encoded(name) } else { name.to_owned() };
        let (contents, next): Page<dto::Object> = {
            let state = self.state();
            let mut found = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
            let page: Vec<_> = found.by_ref().take(most).collect();
            let next = found.next().and(page.last().map(|(key, _)| (*key).clone()));
            let line = |(key, stored): (&String, &Stored)| dto::Object {
                key: Some(shown(key)),
                size: Some(stored.bytes.len().try_into().unwrap()),
                last_modified: stored.modified.map(Into::into),
                e_tag: Some(ETag::Strong(stored.etag.clone())),
                ..Default::default()
            };
            (page.into_iter().map(line).collect(), next)
        };
        Ok(S3Response::new(dto::ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(shown(&prefix)),
            key_count: Some(contents.len().try_into().unwrap()),
            contents: Some(contents),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            encoding_type: input.encoding_type,
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        self.state().objects.remove(&request.input.key);
        Ok(S3Response::with_status(dto::DeleteObjectOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    async fn delete_objects(
        &self,
        request: S3Request<dto::DeleteObjectsInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        if request.input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        let kept = self.0.faults().keep.clone();
        let (mut errors, mut state) = (Vec::new(), self.state());
        for object in request.input.delete.objects {
            if kept.as_ref() == Some(&object.key) {
                errors.push(dto::Error {
                    code: Some("AccessDenied".into()),
                    key: Some(object.key),
                    message: Some("Access Denied".into()),
                    version_id: None,
                });
            } else {
                state.objects.remove(&object.key);
            }
        }
        let errors = (!errors.is_empty()).then_some(errors);
        Ok(S3Response::new(dto::DeleteObjectsOutput { errors, ..Default::default() }))
    }

    async fn copy_object(
        &self,
        request: S3Request<dto::CopyObjectInput>,
    ) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        let only_new = request.headers.get("if-none-match").is_some() && !self.0.faults().ignore_conditions;
        let input = request.input;
        let source = source_of!(self, input);
        let customer_key = customer_of!(input);
        let replaces_tags = input.tagging_directive.is_some_and(|directive| directive.as_str() == "REPLACE");
        let stored = Stored {
            etag: digest(&source.bytes),
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            tagging: if replaces_tags { input.tagging } else { source.tagging.clone() },
            kms_key: input.ssekms_key_id,
            customer_key,
            ..source
        };
        let etag = self.state().put(input.key, stored, only_new)?;
        let result = dto::CopyObjectResult { e_tag: Some(etag), ..Default::default() };
        Ok(S3Response::new(dto::CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<dto::UploadPartCopyInput>,
    ) -> S3Result<S3Response<dto::UploadPartCopyOutput>> {
        let input = request.input;
        let source = source_of!(self, input);
        let range = input.copy_source_range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        let (first, last) = range.and_then(|range| range.split_once('-')).ok_or_else(|| s3_error!(InvalidArgument))?;
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let bytes = source.bytes.get(first..=last).map(Bytes::copy_from_slice);
        let bytes = bytes.ok_or_else(|| s3_error!(InvalidRange))?;
        let mut state = self.state();
        let upload = state.upload(&input.upload_id, &input.key)?;
        let etag = digest(&bytes);
        upload.parts.insert(input.part_number, (etag.clone(), bytes, None));
        let result = dto::CopyPartResult { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
        Ok(S3Response::new(dto::UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        let input = request.input;
        let customer_key = customer_of!(input);
        let like = Stored {
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            tagging: input.tagging,
            kms_key: input.ssekms_key_id,
            customer_key,
            ..Stored::default()
        };
        let mut state = self.state();
        state.uploads_begun += 1;
        let id = format!("upload-{}", state.uploads_begun);
        let checksums = input.checksum_algorithm.is_some();
        let upload =
            Upload { key: input.key.clone(), like, checksums, parts: BTreeMap::new(), begun: SystemTime::now() };
        state.uploads.insert(id.clone(), upload);
        Ok(S3Response::new(dto::CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<dto::UploadPartInput>,
    ) -> S3Result<S3Response<dto::UploadPartOutput>> {
        let input = request.input;
        let bytes = whole(input.body).await?;
        let key = customer_of!(input);
        let mut state = self.state();
        let upload = state.upload(&input.upload_id, &input.key)?;
        let_in(&upload.like, key.as_ref())?;
        let (etag, checksum) = (digest(&bytes), input.checksum_crc32);
        if checksum.is_some() != upload.checksums {
            return Err(s3_error!(InvalidRequest, "Checksum Type mismatch occurred"));
        }
        upload.parts.insert(input.part_number, (etag.clone(), bytes, checksum.clone()));
        Ok(S3Response::new(dto::UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc32: checksum,
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let input = request.input;
        let only_new = self.only_new(input.if_none_match.as_ref())?;
        let least = self.0.faults().least_part;
        let mut state = self.state();
        let upload = state.upload(&input.upload_id, &input.key)?.clone();
        let named = input.multipart_upload.and_then(|named| named.parts).unwrap_or_default();
        let (mut bytes, mut digests, mut last) = (BytesMut::new(), Vec::new(), 0);
        for (at, part) in named.iter().enumerate() {
            let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let (etag, content, checksum) = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.checksum_crc32 != *checksum {
                return Err(s3_error!(InvalidRequest, "The complete request must include the checksum for each part"));
            }
            if part.e_tag.as_ref().map(ETag::value) != Some(etag) {
                return Err(s3_error!(InvalidPart));
            }
            if content.len() < least && at + 1 < named.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            bytes.extend_from_slice(content);
            digests.extend_from_slice(&Md5::digest(content));
        }
        if named.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let etag = format!("{}-{}", digest(&digests), named.len());
        let stored = Stored { bytes: bytes.freeze(), etag, ..upload.like };
        let etag = state.put(input.key.clone(), stored, only_new)?;
        state.uploads.remove(&input.upload_id);
        Ok(S3Response::new(dto::CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(etag),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        let mut state = self.state();
        state.upload(&request.input.upload_id, &request.input.key)?;
        state.uploads.remove(&request.input.upload_id);
        Ok(S3Response::with_status(dto::AbortMultipartUploadOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let most = self.0.faults().list_page.unwrap_or(1000);
        let url = input.encoding_type.is_some();
        let shown = |name: &str| if url { encoded(name) } else { name.to_owned() };
        let marker = (input.key_marker.clone().unwrap_or_default(), input.upload_id_marker.clone().unwrap_or_default());
        let state = self.state();
        let mut all: Vec<_> =
            state.uploads.iter().map(|(id, upload)| ((upload.key.clone(), id.clone()), upload)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut found = all.into_iter().filter(|(place, _)| place.0.starts_with(&prefix) && *place > marker);
        let page: Vec<_> = found.by_ref().take(most).collect();
        let next = found.next().and(page.last().map(|(place, _)| place.clone()));
        let line = |((key, id), upload): &((String, String), &Upload)| dto::MultipartUpload {
            key: Some(shown(key)),
            upload_id: Some(id.clone()),
            initiated: Some(upload.begun.into()),
            ..Default::default()
        };
        Ok(S3Response::new(dto::ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            uploads: Some(page.iter().map(line).collect()),
            is_truncated: Some(next.is_some()),
            next_key_marker: next.as_ref().map(|(key, _)| shown(key)),
            next_upload_id_marker: next.map(|(_, id)| id),
            encoding_type: input.encoding_type,
            ..Default::default()
        }))
    }
}
