//! What an S3 storage is told.

use std::fmt;

use crate::types::Secret;

/// Where a bucket is, how to speak to it, and how objects are stored there.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// The bucket, or the ARN of an access point.
    pub bucket: String,
    /// `None`: the environment's, else found out from the service itself.
    pub region: Option<String>,
    /// Scheme, host and port of a service that is not AWS.
    pub endpoint: Option<String>,
    /// The bucket is the first part of the path instead of the host name.
    pub path_style: bool,
    /// Certificates are not verified.
    pub skip_verify: bool,
    /// Bodies are part of the signature.
    pub sign_payload: bool,
    /// Batch deletions carry a `Content-MD5`.
    pub content_md5: bool,
    /// Bodies carry the checksums that newer S3 asks for; many compatibles refuse them.
    pub checksums: bool,
    /// The class of what is stored; `None` = the bucket's own default.
    pub storage_class: Option<String>,
    /// Bytes of one part of a multipart upload. Bodies below this go up in one request.
    pub part_size: u64,
    /// Bytes that the service copies in one request; longer objects are copied in parts of this size.
    pub copy_size: u64,
    /// Parts of one object under way at a time.
    pub concurrency: usize,
    /// Who encrypts what is stored.
    pub encryption: Encryption,
    /// Tags of every object.
    pub tags: Vec<(String, String)>,
    /// Headers of every request, such as a provider asks for.
    pub headers: Vec<(String, String)>,
    /// `None`: those of the environment, the shared profile, web identity, ECS or EC2.
    pub credentials: Option<Credentials>,
}

/// What S3 copies in one request: 5 GiB.
pub const COPY_SIZE: u64 = 5 << 30;

/// Without the values of headers, which may be secrets of a proxy.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Options")
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("path_style", &self.path_style)
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

/// Who encrypts what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// The service, as the bucket is set up.
    #[default]
    Bucket,
    /// The service, with a key that comes with each request and that it does not keep.
    Customer {
        /// `AES256`.
        algorithm: String,
        /// 32 bytes in base64.
        key: Secret,
    },
    /// The service, with a key of its key management.
    Kms {
        /// ID or ARN.
        key_id: String,
    },
}

/// Static credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Public half.
    pub access_key_id: String,
    /// Secret half.
    pub secret_access_key: Secret,
    /// Goes with temporary credentials.
    pub session_token: Option<Secret>,
}
