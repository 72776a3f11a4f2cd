//! Capture.
pub mod connection;
pub mod wal_index;
