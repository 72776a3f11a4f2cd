//! S3 and everything that speaks S3.

mod options;
pub mod providers;

pub use options::{Credentials, Encryption, Options};
