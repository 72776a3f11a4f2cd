//! The `sqlite3` program as scripts should have it: one that waits while the
//! database is locked, as an application does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts it into a directory that is to be first in `PATH`.
pub(crate) fn install_sqlite3(dir: &Path) {
    let path = std::env::var("PATH").unwrap();
    let real = path.split(':').map(|dir| Path::new(dir).join("sqlite3")).find(|path| path.exists()).unwrap();
    let script = format!("#!/bin/sh\nexec {} -cmd '.timeout 20000' \"$@\"\n", real.display());
    let own = dir.join("sqlite3");
    std::fs::write(&own, script).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
}
