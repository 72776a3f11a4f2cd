//! Streams every commit of SQLite databases to replicas and restores them.
//!
//! The journey of one commit, which is also the order of the modules:
//! `capture` sees the WAL grow, proves with `wal` which frames are committed
//! and unbroken since the last look, and writes the newest version of each
//! changed page as one segment in `ltx` form; `spool` makes it durable, and only
//! then may SQLite reuse those frames; `upload` ships it to each `replica`, which
//! keeps named bytes in a `storage`. `restore` goes the other way: list, plan a
//! chain without a hole, fetch, verify, rename.
//!
//! `doctor` tries out whether a storage does what the others need of it.
//! `upkeep` merges what is on a replica, makes snapshots of it, and deletes what
//! policy no longer keeps.
//! `legacy` reads what Litestream 0.3 left behind. `audit` reads whole replicas
//! and says what is wrong; `drill` rehearses restores.
//!
//! `directory` tells which databases are in a directory and hears of those that
//! come and go.
//!
//! `disk` tells how much room there is for local state.
//! `serve` speaks HTTP for whoever has something to answer, and `control` is what
//! a daemon and the commands that ask it say to each other.
//!
//! `types` are the nouns, and `causes` says in one line what went wrong. `config`, `daemon` and `cli` open doors and read what
//! the rooms pin up in `status`; `health` says whether one can sleep.

pub mod audit;
pub mod capture;
mod causes;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod directory;
pub mod disk;
pub mod doctor;
pub mod drill;
pub mod durable;
pub mod health;
pub mod legacy;
pub mod ltx;
pub mod observe;
pub mod replica;
pub mod restore;
pub mod serve;
pub mod spool;
pub mod status;
pub mod storage;
pub mod types;
pub mod upkeep;
pub mod upload;
pub mod wal;
