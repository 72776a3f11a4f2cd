//! All whole-program tests, in one binary so that linking is paid once.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod audit;
mod capture;
mod cli;
mod create_only;
mod directories;
mod docs;
mod doctor;
mod drill;
#[cfg(feature = "failpoints")]
mod durable;
mod elsewhere;
mod failures_base;
mod failures_capture;
mod failures_checkpoint;
mod failures_cost;
mod failures_disk;
mod failures_guard;
mod failures_idle;
#[cfg(feature = "failpoints")]
mod failures_injected;
mod failures_life;
mod failures_remote;
#[cfg(feature = "failpoints")]
mod failures_steps;
mod fault;
mod file_storage;
mod fuzz;
mod golden_ltx;
mod history;
mod image;
mod interop_ltx;
mod interop_replica;
mod interop_s3;
mod interop_urls;
mod legacy;
mod no_footprint;
mod parking;
mod pipeline;
mod places;
mod pretend;
mod registry;
mod replica;
mod restore;
mod running;
mod s3;
mod s3_commands;
mod scale;
mod secrets;
mod service_docs;
mod storage;
mod takeover;
mod testing_doc;
mod tidy;
mod torture;
mod upkeep_cli;
mod upkeep_daemon;
mod upkeep_model;
mod upkeep_policy;
mod wal;
