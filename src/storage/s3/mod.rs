//! S3 and everything that speaks S3.

mod options;

pub use options::{Credentials, Encryption, Options};
