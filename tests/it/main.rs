//! All whole-program tests, in one binary so that linking is paid once.
mod capture;
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod fuzz;
mod golden_ltx;
mod image;
mod interop_ltx;
mod wal;
