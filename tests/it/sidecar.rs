//! The program beside an application: `-exec`, the duties of process 1, what a
//! service manager is told, restoring on the first boot, and living with few
//! rights.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory with a database and a place for its replica.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        // The sqlite3 of the scripts waits for a lock as an application does.
        std::fs::write(stage.path(".sqliterc"), ".timeout 10000\n").unwrap();
        stage.sql("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES ('first')");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sql(&self, sql: &str) -> String {
        sqlite3(&self.path("app.db"), sql)
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("replica").display())
    }

    fn config(&self, keys: &str) -> PathBuf {
        let text = format!(
            "{keys}\ndbs:\n  - path: {0}/app.db\n    replica: {{path: {0}/replica, sync-interval: 100ms}}\n",
            self.dir.path().display()
        );
        std::fs::write(self.path("litestream.yml"), text).unwrap();
        self.path("litestream.yml")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(words);
        self.surroundings(&mut command);
        command
    }

    fn surroundings(&self, command: &mut Command) {
        let out = |name| File::options().create(true).append(true).open(self.path(name)).unwrap();
        command.current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.env("PATH", std::env::var("PATH").unwrap());
        command.stdin(Stdio::null()).stdout(out("out")).stderr(out("err"));
    }

    /// `replicate -exec SCRIPT`, where the script knows the database as `$db`.
    fn exec(&self, flags: &[&str], script: &str) -> Command {
        let command = format!("sh -c 'db=app.db; {script}'");
        let url = self.url();
        self.command(&[&["replicate"], flags, &["-exec", &command, "app.db", &url]].concat())
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The rows that a restore gives.
    fn restored(&self) -> String {
        let output = tempfile::tempdir().unwrap();
        let output = output.path().join("restored.db");
        let done = self.command(&["restore", "-o", output.to_str().unwrap(), &self.url()]).status().unwrap();
        assert!(done.success(), "{}", self.said("err"));
        sqlite3(&output, "SELECT x FROM t ORDER BY rowid")
    }
}

fn sqlite3(path: &Path, sql: &str) -> String {
    let done = Command::new("sqlite3").args(["-cmd", ".timeout 10000"]).arg(path).arg(sql).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A process that is ended with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn send(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the program did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_end_of_the_application_is_the_end_of_the_program() {
    let cases: [(&[&str], &str, i32, &str); 9] = [
        (&[], "exit 0", 0, ""),
        (&[], "exit 3", 1, "Error: exit status 3\n"),
        (&[], "kill -9 $$", 1, "Error: signal: killed\n"),
        (&["-exec-exit-code"], "exit 0", 0, ""),
        (&["-exec-exit-code"], "exit 3", 3, "Error: exit status 3\n"),
        (&["-exec-exit-code"], "kill -9 $$", 137, "Error: signal: killed\n"),
        (&["--exec-exit-code=true"], "kill -TERM $$", 143, "Error: signal: terminated\n"),
        (&["--exec-exit-code=false"], "exit 3", 1, "Error: exit status 3\n"),
        // What it has committed is there whatever it ends with.
        (&[], "sqlite3 $db \"INSERT INTO t VALUES (99)\"; exit 1", 1, "Error: exit status 1\n"),
    ];
    for (flags, script, code, error) in cases {
        let stage = Stage::new();
        let ended = Running::start(stage.exec(flags, script)).ended();
        assert_eq!((ended.code(), stage.said("err")), (Some(code), error.to_owned()), "{flags:?} {script}");
        assert_eq!(stage.restored(), stage.sql("SELECT x FROM t ORDER BY rowid"), "{script}");
    }
}

#[test]
fn an_application_that_cannot_be_started_is_an_error() {
    let cases = [
        ("no-such-program-anywhere -x", "Error: cannot start exec command: no-such-program-anywhere: No such file"),
        ("sh -c 'unbalanced", "Error: cannot parse exec command: invalid command line string\n"),
        ("; true", "Error: cannot parse exec command: it names no program\n"),
    ];
    for (exec, error) in cases {
        let stage = Stage::new();
        let ended = Running::start(stage.command(&["replicate", "-exec", exec, "app.db", &stage.url()])).ended();
        assert_eq!(ended.code(), Some(1), "{exec}");
        assert!(stage.said("err").starts_with(error), "{}", stage.said("err"));
    }
    // What no shell reads is not passed on, and that is said.
    let stage = Stage::new();
    let ended = Running::start(stage.command(&["replicate", "-exec", "true > x", "app.db", &stage.url()])).ended();
    assert!(ended.success() && !stage.path("x").exists());
    assert!(stage.said("out").contains("no shell reads the exec command"), "{}", stage.said("out"));
}

#[test]
fn the_application_of_the_config_is_started_and_the_flag_is_stronger() {
    let stage = Stage::new();
    let config = stage.config("exec: sh -c 'exit 4'");
    let config = config.to_str().unwrap();
    let run = |words: &[&str]| {
        let words = [&["replicate", "-config", config], words].concat();
        Running::start(stage.command(&words)).ended().code()
    };
    assert_eq!(run(&["-exec-exit-code"]), Some(4));
    assert_eq!(run(&["-exec-exit-code", "-exec", "sh -c 'exit 5'"]), Some(5));
    assert_eq!(run(&["-once"]), Some(1));
    assert!(stage.said("err").ends_with("Error: cannot specify -once flag with -exec\n"), "{}", stage.said("err"));
}

/// F94: an application commits until the very end, and ends in every way.
#[test]
fn commits_made_while_the_application_stops_are_replicated() {
    let cases: [(&[&str], &str, i32); 3] =
        [(&[], "exit 0", 0), (&[], "exit 3", 1), (&["-exec-exit-code"], "trap - TERM; kill $$", 143)];
    for (flags, end, code) in cases {
        let stage = Stage::new();
        // Two seconds of commits after it was asked to end.
        let script = format!(
            "stop() {{ i=0; while [ $i -lt 20 ]; do sqlite3 $db \"INSERT INTO t VALUES ($i)\"; i=$((i+1)); \
             sleep 0.1; done; {end}; }}; trap stop TERM; touch up; while true; do sleep 0.05; done"
        );
        let mut program = Running::start(stage.exec(flags, &script));
        until("the application is up", || stage.path("up").exists());
        program.send(Signal::TERM);
        assert_eq!(program.ended().code(), Some(code), "{end}: {}", stage.said("err"));
        let rows = stage.sql("SELECT x FROM t ORDER BY rowid");
        assert_eq!(rows.lines().count(), 21, "{rows}");
        assert_eq!(stage.restored(), rows, "{end}");
    }
}

#[test]
fn signals_are_passed_on_and_only_the_end_of_the_application_ends_the_program() {
    let stage = Stage::new();
    let script = "for s in INT TERM QUIT USR1 USR2; do trap \"echo $s >> got; [ -e stop ] && exit 0\" $s; done; touch up; \
                  while true; do sleep 0.05; done";
    let mut program = Running::start(stage.exec(&[], script));
    until("the application is up", || stage.path("up").exists());
    let mut expected = String::new();
    for (signal, name) in [(Signal::USR1, "USR1"), (Signal::INT, "INT"), (Signal::QUIT, "QUIT"), (Signal::USR2, "USR2")]
    {
        program.send(signal);
        expected.push_str(&format!("{name}\n"));
        until("the application got it", || stage.said("got") == expected);
    }
    // Asked to stop twice by now. It is replicated for as long as it lives.
    stage.sql("INSERT INTO t VALUES ('later')");
    until("commits still arrive", || stage.restored() == "first\nlater\n");
    std::fs::write(stage.path("stop"), "").unwrap();
    program.send(Signal::TERM);
    assert_eq!(program.ended().code(), Some(0), "{}", stage.said("err"));
    assert_eq!(stage.said("got"), format!("{expected}TERM\n"));
    // One that has no say in the matter.
    let stage = Stage::new();
    let mut program = Running::start(stage.exec(&[], "touch up; exec sleep 600"));
    until("the application is up", || stage.path("up").exists());
    program.send(Signal::TERM);
    assert_eq!((program.ended().code(), stage.said("err")), (Some(0), String::new()));
}

#[test]
fn the_application_gets_the_credentials_and_not_the_service_manager() {
    let stage = Stage::new();
    let mut command = stage
        .exec(&["-log-level", "debug"], "env > env; cat > stdin; cut -d\" \" -f5 /proc/$$/stat > group; pwd > pwd");
    command.env("LITESTREAM_ACCESS_KEY_ID", "key").env("LITESTREAM_SECRET_ACCESS_KEY", "hush").env("MINE", "yes");
    command.env("NOTIFY_SOCKET", "/nowhere").env("WATCHDOG_USEC", "60000000");
    let mut program = Running::start(command);
    assert!(program.ended().success(), "{}", stage.said("err"));
    let env = stage.said("env");
    for line in ["AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=hush", "MINE=yes", "LOG_LEVEL=debug"] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    assert!(!env.contains("NOTIFY_SOCKET") && !env.contains("WATCHDOG"), "{env}");
    assert_eq!(stage.said("stdin"), "");
    assert_eq!(
        stage.said("group").trim().parse(),
        Ok(rustix::process::getpgrp().as_raw_nonzero().get()),
        "as a shell expects"
    );
    assert_eq!(Path::new(stage.said("pwd").trim()), stage.dir.path().canonicalize().unwrap());
}

/// Whether this user may make namespaces, which tests of process 1 and of a
/// read-only root need.
fn namespaces(flags: &[&str]) -> bool {
    let tried = Command::new("unshare").args(flags).arg("true").stderr(Stdio::null()).status();
    let fine = tried.is_ok_and(|status| status.success());
    if !fine {
        eprintln!("skipped: this test needs unshare {}", flags.join(" "));
    }
    fine
}

const OWN_PROCESSES: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];

/// `replicate -exec SCRIPT` as process 1.
fn as_first_process(stage: &Stage, flags: &[&str], script: &str) -> Running {
    let inner = stage.exec(flags, script);
    let mut command = Command::new("unshare");
    command.args(OWN_PROCESSES).arg(inner.get_program()).args(inner.get_args());
    stage.surroundings(&mut command);
    Running::start(command)
}

#[test]
fn as_process_1_it_waits_for_orphans() {
    if !namespaces(&OWN_PROCESSES) {
        return;
    }
    let stage = Stage::new();
    let script = "for i in 1 2 3 4 5; do (sleep 0.2 & ); done; sleep 0.1; n=0; \
                  while ls -d /proc/[0-9]* | wc -l | grep -q . && grep -qs sleep /proc/[0-9]*/comm && [ $n -lt 600 ]; do \
                  sleep 0.1 & wait $!; n=$((n+1)); done; \
                  sqlite3 $db \"INSERT INTO t VALUES (2)\"; cat /proc/1/comm > first; grep -hs ^State /proc/[0-9]*/status > states; exit 7";
    let ended = as_first_process(&stage, &["-exec-exit-code"], script).ended();
    assert_eq!(ended.code(), Some(7), "{}{}", stage.said("out"), stage.said("err"));
    assert_eq!(stage.said("first"), "brooklet\n");
    let states = stage.said("states");
    assert!(states.contains("State:") && !states.contains('Z'), "{states}");
    assert_eq!(stage.restored(), "first\n2\n");
}

#[test]
fn as_process_1_it_is_stopped_as_containers_are() {
    if !namespaces(&OWN_PROCESSES) {
        return;
    }
    let stage = Stage::new();
    let script =
        "trap \"sqlite3 $db \\\"INSERT INTO t VALUES (2)\\\"; exit 0\" TERM; touch up; while true; do sleep 0.05; done";
    let mut program = as_first_process(&stage, &[], script);
    until("the application is up", || stage.path("up").exists());
    let outer = program.pid().as_raw_nonzero();
    let first = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    kill_process(Pid::from_raw(first.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(program.ended().code(), Some(0), "{}{}", stage.said("out"), stage.said("err"));
    assert_eq!(stage.restored(), "first\n2\n");
}

/// What a service manager hears.
struct Ear {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Ear {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, heard: Vec::new() }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(n) => self.heard.extend(String::from_utf8(buffer[..n].to_vec()).unwrap().lines().map(str::to_owned)),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}"),
        }
    }

    fn hears(&mut self, line: &str) {
        until(&format!("{line} is heard"), || {
            self.listen();
            self.heard.iter().any(|heard| heard.starts_with(line))
        });
    }
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_alive_and_stopping() {
    for abstract_name in [false, true] {
        let stage = Stage::new();
        let name = format!("@brooklet-test-{}", std::process::id());
        let (name, socket) = match abstract_name {
            true => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
                (name, UnixDatagram::bind_addr(&address).unwrap())
            }
            false => {
                let path = stage.path("notify");
                (path.to_str().unwrap().to_owned(), UnixDatagram::bind(path).unwrap())
            }
        };
        let mut ear = Ear::new(socket);
        // A replica that cannot be reached is no reason not to be ready, and is told.
        std::fs::write(stage.path("replica"), "in the way").unwrap();
        let config = stage.config("shutdown-sync-timeout: 1s");
        let mut command = stage.command(&["replicate", "-config", config.to_str().unwrap()]);
        command.env("NOTIFY_SOCKET", &name).env("WATCHDOG_USEC", "200000");
        let mut program = Running::start(command);
        ear.hears("READY=1");
        ear.hears("STATUS=following 1 of 1 databases");
        ear.hears(&format!("STATUS=following 1 of 1 databases; {}, replica file: ", stage.path("app.db").display()));
        let beats = |ear: &Ear| ear.heard.iter().filter(|line| *line == "WATCHDOG=1").count();
        until("it gives signs of life", || {
            ear.listen();
            beats(&ear) >= 5
        });
        std::fs::remove_file(stage.path("replica")).unwrap();
        until("it has recovered", || {
            ear.listen();
            ear.heard.iter().rfind(|line| line.starts_with("STATUS=")).unwrap() == "STATUS=following 1 of 1 databases"
        });
        program.send(Signal::TERM);
        ear.hears("STOPPING=1");
        ear.hears("EXTEND_TIMEOUT_USEC=11000000");
        assert!(program.ended().success(), "{}", stage.said("err"));
        let ready = ear.heard.iter().filter(|line| *line == "READY=1").count();
        assert_eq!(ready, 1, "{:?}", ear.heard);
    }
}

#[test]
fn a_missing_database_is_restored_before_the_application_starts() {
    let stage = Stage::new();
    // The very first boot: nothing to restore is no error, and the application makes its database.
    let flag: &[&str] = &["-restore-if-db-not-exists"];
    let remove = || {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(stage.path(&format!("app.db{suffix}")));
        }
        let _ = std::fs::remove_dir_all(stage.path(".app.db-litestream"));
    };
    remove();
    let boot = "sqlite3 $db \"PRAGMA journal_mode=wal; CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (1)\"";
    assert!(Running::start(stage.exec(flag, boot)).ended().success(), "{}", stage.said("err"));
    assert!(stage.said("out").contains("no backup found, starting fresh"), "{}", stage.said("out"));
    // The disk is lost: the application finds what it had.
    remove();
    assert!(Running::start(stage.exec(flag, boot)).ended().success(), "{}", stage.said("err"));
    assert_eq!(stage.sql("SELECT count(*) FROM t"), "2\n");
    // And a database that is there stays.
    assert!(Running::start(stage.exec(flag, boot)).ended().success(), "{}", stage.said("err"));
    assert_eq!((stage.sql("SELECT count(*) FROM t"), stage.restored()), ("3\n".into(), "1\n1\n1\n".into()));
    // As a key of the config.
    remove();
    let config = stage.config("exec: sqlite3 app.db 'INSERT INTO t VALUES (4)'");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("    replica:", "    restore-if-db-not-exists: true\n    replica:")).unwrap();
    let ended = Running::start(stage.command(&["replicate", "-config", config.to_str().unwrap()])).ended();
    assert!(ended.success(), "{}", stage.said("err"));
    assert_eq!(stage.restored(), "1\n1\n1\n4\n");
    // A replica that cannot be read is a reason not to start with an empty database.
    remove();
    let replica = stage.path("replica/ltx/0");
    for entry in std::fs::read_dir(&replica).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    std::fs::remove_dir_all(stage.path("replica/ltx/9")).ok();
    let mut program = Running::start(stage.exec(flag, "touch started"));
    assert_eq!(program.ended().code(), Some(1), "{}", stage.said("out"));
    assert!(!stage.path("started").exists() && !stage.path("app.db").exists());
}

#[test]
fn a_stop_is_heard_while_a_database_is_being_restored() {
    let stage = Stage::new();
    // A storage that takes the connection and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("s3://bucket/app?endpoint=http://{}&region=us-east-1", silent.local_addr().unwrap());
    let mut command =
        stage.command(&["replicate", "-restore-if-db-not-exists", "-exec", "touch started", "new.db", &url]);
    command.env("LITESTREAM_ACCESS_KEY_ID", "key").env("LITESTREAM_SECRET_ACCESS_KEY", "hush");
    let mut program = Running::start(command);
    until("it has begun", || stage.said("out").contains("attempting restore before replication"));
    program.send(Signal::TERM);
    assert_eq!((program.ended().code(), stage.said("err")), (Some(0), String::new()));
    assert!(!stage.path("new.db").exists() && !stage.path("started").exists());
}

/// F95: whoever asks twice does not want to wait, and nothing is lost by that.
#[test]
fn a_second_signal_ends_the_last_upload_and_the_next_start_makes_it() {
    let stage = Stage::new();
    std::fs::write(stage.path("replica"), "in the way").unwrap();
    let config = stage.config("shutdown-sync-timeout: 1h");
    let start = || Running::start(stage.command(&["replicate", "-config", config.to_str().unwrap()]));
    let mut program = start();
    until("it is followed", || stage.path(".app.db-litestream/brooklet/pagemap").exists());
    program.send(Signal::TERM);
    until("it is stopping", || stage.said("out").contains("signal received, litestream shutting down"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(program.0.try_wait().unwrap().is_none(), "it waits for the replica");
    program.send(Signal::TERM);
    assert_eq!(program.ended().code(), Some(1));
    assert!(stage.said("out").contains("second signal received"), "{}", stage.said("out"));
    std::fs::remove_file(stage.path("replica")).unwrap();
    let mut program = start();
    until("the last commit is there", || stage.path("replica/ltx/0").exists());
    program.send(Signal::TERM);
    assert_eq!(program.ended().code(), Some(0));
    assert_eq!(stage.restored(), "first\n");
}

/// As a container with few rights: another user, nothing writable but the data.
#[test]
fn it_needs_neither_root_nor_a_writable_root_file_system() {
    if !rustix::process::geteuid().is_root() || !namespaces(&["--mount"]) {
        eprintln!("skipped: this test needs root, to take rights away");
        return;
    }
    let stage = Stage::new();
    let open = |name: &str, mode| std::fs::set_permissions(stage.path(name), PermissionsExt::from_mode(mode)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_brooklet"), stage.path("brooklet")).unwrap();
    open("brooklet", 0o755);
    open("", 0o755);
    for name in ["data", "replica", "state"] {
        std::fs::create_dir(stage.path(name)).unwrap();
        open(name, 0o777);
    }
    let path = stage.path("data/app.db");
    sqlite3(&path, "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES ('first')");
    open("data/app.db", 0o666);
    let place = stage.dir.path().display();
    let run = |keys: &str, exec: &str| {
        let text = format!(
            "exec: {exec}\nshutdown-sync-timeout: 1s\ndbs: [{{path: {}, {keys} replica: {{path: {place}/replica}}}}]\n",
            path.display()
        );
        std::fs::write(stage.path("litestream.yml"), text).unwrap();
        std::fs::write(stage.path("out"), "").unwrap();
        // Everything read-only, then the three places that are not.
        let script = format!(
            "for d in data replica state; do mount --bind {place}/$d {place}/$d; done; mount -o remount,bind,ro / && \
             exec setpriv --reuid=65532 --regid=65532 --clear-groups {place}/brooklet replicate -config {place}/litestream.yml"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        stage.surroundings(&mut command);
        Running::start(command).ended()
    };
    let insert = |n: u32| format!("sqlite3 {} \"INSERT INTO t VALUES ({n})\"", path.display());
    let ended = run("", &insert(2));
    assert!(ended.success(), "{}{}", stage.said("out"), stage.said("err"));
    assert_eq!(stage.restored(), "first\n2\n");
    // Where local state may not be, the message says where to put it.
    std::fs::remove_dir_all(stage.path("data/.app.db-litestream")).unwrap();
    std::fs::create_dir(stage.path("no-state")).unwrap();
    let ended = run(&format!("meta-path: {place}/no-state/app,"), &insert(3));
    let said = format!("{}{}", stage.said("out"), stage.said("err"));
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("Read-only file system") && said.contains("set `meta-path` to a directory"), "{said}");
    let ended = run(&format!("meta-path: {place}/state/app,"), &insert(4));
    assert!(ended.success(), "{}{}", stage.said("out"), stage.said("err"));
    assert_eq!(stage.restored(), "first\n2\n3\n4\n");
    assert!(stage.path("state/app").exists() && !stage.path("data/.app.db-litestream").exists());
}
