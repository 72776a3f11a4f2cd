//! Deletions, in batches where the service has them.

use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::{StreamExt, TryStreamExt, stream};

use super::super::{Error, ErrorKind, Key, Operation, Result};
use super::Bucket;
use super::failure::{Failure, judge};
use super::headers::ContentMd5;

/// The most that one request may name.
const BATCH: usize = 1000;

/// Requests under way at once where there are no batches.
const SINGLES: usize = 16;

impl Bucket {
    pub(super) async fn delete(&self, keys: &[Key]) -> Result<()> {
        for batch in keys.chunks(BATCH) {
            if !self.deletes_singly.load(Ordering::Relaxed) {
                match self.delete_batch(batch).await? {
                    Batches::Work => continue,
                    Batches::AreUnknown => self.deletes_singly.store(true, Ordering::Relaxed),
                }
            }
            stream::iter(batch).map(Ok).try_for_each_concurrent(SINGLES, |key| self.delete_one(key)).await?;
        }
        Ok(())
    }

    async fn delete_batch(&self, batch: &[Key]) -> Result<Batches> {
        let what = || match batch {
            [key] => format!("delete {key} in bucket {}", self.name()),
            keys => format!("delete {} objects in bucket {}", keys.len(), self.name()),
        };
        let names = batch.iter().map(|key| ObjectIdentifier::builder().key(key.as_str()).build());
        let names = names
            .collect::<Result<Vec<_>, _>>()
            .and_then(|names| Delete::builder().set_objects(Some(names)).quiet(true).build());
        let names = names.map_err(|e| Failure::refused(e.to_string()).into_error(&what()))?;
        let request = |client: aws_sdk_s3::Client| {
            let mut request = client.delete_objects().bucket(self.name()).delete(names.clone()).customize();
            if self.options.content_md5 {
                request = request.interceptor(ContentMd5);
            }
            request.send()
        };
        let answer = match self.send(Operation::Delete, request).await {
            Ok(answer) => answer,
            Err(failure) if is_unknown(&failure) => return Ok(Batches::AreUnknown),
            Err(failure) => return Err(failure.into_error(&what())),
        };
        let failed = answer.errors().iter().find(|failed| failed.code() != Some("NoSuchKey"));
        let Some(failed) = failed else { return Ok(Batches::Work) };
        let (key, code) = (failed.key().unwrap_or("an object"), failed.code().unwrap_or("no code given"));
        let verdict = judge(if code == "AccessDenied" { 403 } else { 500 }, code);
        let details = failed.message().unwrap_or("no details given");
        let message = format!("cannot delete {key} in bucket {}: {code}: {details}{}", self.name(), verdict.advice);
        let error = Error::new(verdict.kind, message);
        Err(if verdict.throttled { error.throttled() } else { error })
    }

    async fn delete_one(&self, key: &Key) -> Result<()> {
        let request = |client: aws_sdk_s3::Client| client.delete_object().bucket(self.name()).key(key.as_str()).send();
        match self.send(Operation::Delete, request).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.verdict().kind == ErrorKind::Missing => Ok(()),
            Err(failure) => Err(self.failed("delete", key)(failure)),
        }
    }
}

enum Batches {
    Work,
    AreUnknown,
}

/// What services say to a request that they do not know.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure.status, Some(501 | 405)) || failure.is("NotImplemented") || failure.is("MethodNotAllowed")
}
