//! Listings: of objects, and of uploads that nobody finished.
//!
//! Names travel percent-encoded: XML cannot carry every character a key can have.

use std::borrow::Cow;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::super::{Error, ErrorKind, Key, LIST_PAGE, Object, Operation, Result};
use super::Bucket;
use super::failure::Failure;
use crate::types::Timestamp;

impl Bucket {
    pub(super) async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        let what = || format!("list {prefix:?} in bucket {}", self.name());
        let folder = folder(prefix);
        let mut objects: Vec<Object> = Vec::new();
        let mut token = None;
        loop {
            let request = |client: aws_sdk_s3::Client| {
                let request = client.list_objects_v2().bucket(self.name()).encoding_type(EncodingType::Url);
                let request = request.set_prefix(folder.clone()).set_continuation_token(token.clone());
                // Garage lists nothing if asked to start before the folder.
                let start = after.filter(|after| token.is_none() && after.is_in(prefix));
                request.set_start_after(start.map(Key::to_string)).send()
            };
            let page = self.send(Operation::List, request).await.map_err(|failure| failure.into_error(&what()))?;
            let encoded = page.encoding_type() == Some(&EncodingType::Url);
            for line in page.contents() {
                let Some(key) = line.key().and_then(|name| key(name, encoded)) else { continue };
                // Some services ignore what they do not know, such as where to start.
                if !key.is_in(prefix) || after.is_some_and(|after| key <= *after) {
                    continue;
                }
                if objects.last().is_some_and(|last| last.key >= key) {
                    let advice = "use a bucket whose listings are in key order";
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!("cannot {}: {key} is out of order: {advice}", what()),
                    ));
                }
                let size = u64::try_from(line.size().unwrap_or(0)).unwrap_or(0);
                objects.push(Object { key, size, modified: time(line.last_modified()) });
            }
            token = page.next_continuation_token().map(str::to_owned);
            if objects.len() >= LIST_PAGE || token.is_none() || page.is_truncated() == Some(false) {
                objects.truncate(LIST_PAGE);
                return Ok(objects);
            }
        }
    }

    /// Gives up uploads in the folder `prefix` that began before `before` and
    /// were never finished. Returns how many.
    pub(super) async fn abort_stale_uploads(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        let what = || format!("list unfinished uploads of {prefix:?} in bucket {}", self.name());
        let folder = folder(prefix);
        let (mut place, mut aborted) = ((None, None), 0);
        loop {
            let request = |client: aws_sdk_s3::Client| {
                let request = client.list_multipart_uploads().bucket(self.name()).encoding_type(EncodingType::Url);
                let request = request.set_prefix(folder.clone()).set_key_marker(place.0.clone());
                request.set_upload_id_marker(place.1.clone()).send()
            };
            let page = self.send(Operation::List, request).await.map_err(|failure| failure.into_error(&what()))?;
            let encoded = page.encoding_type() == Some(&EncodingType::Url);
            for upload in page.uploads() {
                let Some(key) = upload.key().and_then(|name| key(name, encoded)) else { continue };
                let old = upload.initiated().is_some_and(|begun| time(Some(begun)) < before);
                let Some(id) = upload.upload_id().filter(|_| old && key.is_in(prefix)) else { continue };
                match self.abort(&key, id).await {
                    Ok(()) => aborted += 1,
                    Err(failure) if failure.verdict().kind == ErrorKind::Missing => {}
                    Err(failure) => return Err(self.failed("give up an old upload of", &key)(failure)),
                }
            }
            let next = page.next_key_marker().and_then(|name| text(name, encoded));
            if next.is_none() || page.is_truncated() != Some(true) {
                return Ok(aborted);
            }
            place = (next.map(Cow::into_owned), page.next_upload_id_marker().map(str::to_owned));
        }
    }

    /// Gives up one upload. Parts under way at that moment may survive it, which
    /// is why the stale ones are looked for.
    pub(super) async fn abort(&self, key: &Key, id: &str) -> Result<(), Failure> {
        let request = |client: aws_sdk_s3::Client| {
            client.abort_multipart_upload().bucket(self.name()).key(key.as_str()).upload_id(id).send()
        };
        self.send(Operation::Delete, request).await.map(drop)
    }
}

/// What all names in a folder begin with.
fn folder(prefix: &Key) -> Option<String> {
    (*prefix != Key::ROOT).then(|| format!("{prefix}/"))
}

/// A name as a key; `None` for names that no key of ours has.
fn key(name: &str, encoded: bool) -> Option<Key> {
    Key::new(text(name, encoded)?).ok()
}

fn text(name: &str, encoded: bool) -> Option<Cow<'_, str>> {
    if !encoded {
        return Some(name.into());
    }
    // A plus is a space here, and a plus itself comes as %2B.
    if name.contains('+') {
        let spaced = name.replace('+', " ");
        return percent_decode_str(&spaced).decode_utf8().ok().map(|name| name.into_owned().into());
    }
    percent_decode_str(name).decode_utf8().ok()
}

fn time(time: Option<&DateTime>) -> Timestamp {
    Timestamp::from_millis(time.and_then(|time| time.to_millis().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_only_if_the_service_encoded_them() {
        assert_eq!(key("a/1+2%253%2B%C3%A9", true), Some(Key::new("a/1 2%3+é").unwrap()));
        assert_eq!(key("a/1+2%253", false), Some(Key::new("a/1+2%253").unwrap()));
        assert_eq!(key("a%0Ab", true), None, "no key of ours");
        assert_eq!(key("a%FF", true), None);
    }

    #[test]
    fn a_folder_ends_where_its_name_does() {
        assert_eq!(folder(&Key::ROOT), None);
        for (prefix, expected) in [("a", "a/"), ("./0000", "./0000/"), ("/0000", "/0000/"), ("a/b/", "a/b//")] {
            assert_eq!(folder(&Key::new(prefix).unwrap()).as_deref(), Some(expected));
        }
    }
}
