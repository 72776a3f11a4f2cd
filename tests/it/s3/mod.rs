//! An S3 server inside the tests: the protocol and the signatures are the
//! `s3s` crate's, the store and its bad days are ours.

mod backend;
mod copies;
mod daemon;
pub(crate) mod moto;
pub(crate) mod server;
mod store;
mod throughput;

pub(crate) use server::{BUCKET, Faults, Server};

use brooklet::storage::s3::{COPY_SIZE, Credentials, Encryption, Options};
use brooklet::types::Secret;

/// The options of a client that the server lets in.
pub(crate) fn options(server: &Server) -> Options {
    Options {
        bucket: BUCKET.into(),
        region: Some("us-east-1".into()),
        endpoint: Some(server.endpoint.clone()),
        path_style: true,
        skip_verify: false,
        sign_payload: true,
        content_md5: true,
        checksums: false,
        storage_class: None,
        part_size: 5 << 20,
        copy_size: COPY_SIZE,
        concurrency: 3,
        encryption: Encryption::Bucket,
        tags: Vec::new(),
        headers: Vec::new(),
        credentials: Some(Credentials {
            access_key_id: server::ACCESS_KEY.into(),
            secret_access_key: Secret::new(server::SECRET_KEY),
            session_token: None,
        }),
    }
}
