//! What only S3 can do wrong.
