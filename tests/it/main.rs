//! All whole-program tests, in one binary so that linking is paid once.

#[cfg(feature = "failpoints")]
mod durable;
mod fault;
mod file_storage;
mod replica;
mod storage;
mod capture;
