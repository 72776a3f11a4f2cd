//! A deployment whose old and new program overlap: both follow the one database,
//! each with local state of its own, to one place in a bucket.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::s3::BUCKET;
use crate::s3_commands::Rig;

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ended with the test.
struct Program(Child);

impl Program {
    fn start(rig: &Rig, name: &str) -> Self {
        let config = format!(
            "logging: {{stderr: true}}\ndbs:\n  - path: app.db\n    meta-path: {name}\n    replica:\n      type: s3\n      \
             bucket: {BUCKET}\n      path: p\n      region: us-east-1\n      endpoint: {}\n      \
             access-key-id: test-access-key\n      secret-access-key: test-secret-key\n      sync-interval: 50ms\n",
            rig.server.endpoint
        );
        fs::write(rig.path(&format!("{name}.yml")), config).unwrap();
        let log = fs::File::create(rig.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(["replicate", "-config", &format!("{name}.yml")]).current_dir(rig.path(""));
        command.env_clear().env("HOME", rig.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().unwrap())
    }

    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// F62: the newer one wins, the older one stops writing there and says so, and
/// nothing that was committed meanwhile is missing.
#[test]
fn when_old_and_new_overlap_the_new_one_goes_on_and_nothing_is_lost() {
    let rig = Rig::new();
    let (old_log, new_log) = (rig.path("old.log"), rig.path("new.log"));
    let commit_until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "{what}\n{}\n{}", log(&old_log), log(&new_log));
            rig.sql("PRAGMA busy_timeout=20000; INSERT INTO t VALUES (2)");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let old = Program::start(&rig, "old");
    commit_until("the old one has a base there and more", &|| rig.server.keys().len() > 3);
    let new = Program::start(&rig, "new");
    commit_until("the old one notices", &|| log(&old_log).contains("is fenced"));
    let before = rig.server.keys();
    commit_until("the new one goes on", &|| rig.server.keys().len() > before.len() + 3);
    let rows = rig.sql("SELECT count(*) FROM t");
    assert_eq!(old.stop(), Some(1), "it says that this replica lacks what it captured");
    assert_eq!(new.stop(), Some(0), "{}", log(&new_log));
    rig.fine(&["restore", "-config", "new.yml", "-o", "restored.db", "app.db"]);
    assert_eq!(rig.sql_in("restored.db", "SELECT count(*) FROM t"), rows);
    let after = rig.server.keys();
    assert!(before.iter().all(|key| after.contains(key)), "nothing was removed");
}
