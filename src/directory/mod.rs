//! Directories full of databases: which are in one now, and news of those that
//! come and go.
//!
//! Always true: a scan either saw the whole directory or is an error, so a
//! database is never taken for gone because the system was out of descriptors or
//! a folder could not be read; a file that this process follows already is not
//! opened, which would drop SQLite's locks on it; of several names of one file
//! only the first counts.
//!
//! Events ([`News`]) are hints about when to scan. A scan now and then finds what
//! they miss.

mod changes;
mod news;
mod scan;

pub use changes::{Changes, changes};
pub use news::{Heard, News};
pub use scan::{FileId, Found, Scan, Wanted, scan};
