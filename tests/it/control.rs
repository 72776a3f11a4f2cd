//! The control socket: our daemon asked by Litestream's program and by ours, and
//! Litestream's daemon asked by ours. And what the daemon makes of a config that
//! has changed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn ours() -> PathBuf {
    env!("CARGO_BIN_EXE_brooklet").into()
}

fn official() -> Option<PathBuf> {
    let path = std::env::var_os("LITESTREAM_BIN").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: LITESTREAM_BIN is not set");
    }
    path
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sql(path: &Path, sql: &str) -> String {
    let done = Command::new("sqlite3").args(["-cmd", ".timeout 10000"]).arg(path).arg(sql).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A directory with databases, a config and a daemon.
struct Stage {
    dir: TempDir,
    client: PathBuf,
    daemon: Option<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Stage {
    /// Databases a, b and c; a is in the config.
    fn new(client: PathBuf) -> Self {
        let stage = Self { dir: tempfile::tempdir().unwrap(), client, daemon: None };
        for name in ["a.db", "b.db", "c.db"] {
            sql(&stage.path(name), "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        }
        stage.config(&["a"]);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn config(&self, databases: &[&str]) {
        self.config_with("", databases);
    }

    fn config_with(&self, more: &str, databases: &[&str]) {
        let mut text =
            format!("{more}\nsocket: {{enabled: true, path: {}, permissions: 0640}}\ndbs:\n", self.text("s"));
        for name in databases {
            let (database, replica) = (self.text(&format!("{name}.db")), self.text(&format!("r{name}")));
            text.push_str(&format!("  - {{path: {database}, replica: {{path: {replica}, sync-interval: 100ms}}}}\n"));
        }
        fs::write(self.path("c.yml"), text).unwrap();
    }

    fn launch(&mut self, program: &Path) {
        self.launch_with(program, &["-config", "c.yml"]);
        until("the socket is there", || UnixStream::connect(self.path("s")).is_ok());
    }

    fn launch_with(&mut self, program: &Path, words: &[&str]) {
        let log = File::create(self.path("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("replicate").args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(self.daemon.as_ref().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> Option<i32> {
        self.send(Signal::TERM);
        let mut daemon = self.daemon.take().unwrap();
        daemon.wait().unwrap().code()
    }

    /// Asks the daemon with a program.
    fn ask(&self, words: &[&str]) -> Ended {
        let socket = self.text("s");
        let words = [&words[..1], &["-socket", &socket], &words[1..]].concat();
        let output = Command::new(&self.client).args(&words).current_dir(self.dir.path()).output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn fine(&self, words: &[&str]) -> String {
        let ended = self.ask(words);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{words:?} {}", self.log());
        ended.stdout
    }

    /// The lines of a text answer without the numbers that may differ.
    #[track_caller]
    fn lines(&self, words: &[&str]) -> Vec<String> {
        let known = |line: &str| {
            let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            match key.ends_with("txid") || key == "duration_ms" {
                true => {
                    value.parse::<u64>().unwrap();
                    format!("{key}: N")
                }
                false => line.to_owned(),
            }
        };
        self.fine(words).lines().map(known).collect()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.fine(words)).unwrap()
    }

    /// One request over the socket as it is: status line and body.
    fn raw(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("s")).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn rows(&self, replica: &str) -> usize {
        let out = self.path("restored.db");
        let _ = fs::remove_file(&out);
        let url = format!("file://{}", self.text(replica));
        let done = Command::new(ours()).args(["restore", "-o", out.to_str().unwrap(), &url]).output().unwrap();
        if !done.status.success() {
            return 0;
        }
        sql(&out, "SELECT count(*) FROM t").trim().parse().unwrap()
    }

    fn arrives(&self, replica: &str, rows: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.rows(replica) != rows {
            let (found, log) = (self.rows(replica), self.log());
            assert!(Instant::now() < deadline, "{found} rows instead of {rows}\n{}\n{log}", self.fine(&["list"]));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn states(&self) -> Vec<(String, String)> {
        let listed = self.json(&["list", "-json"]);
        let listed = listed["databases"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut states: Vec<_> = listed.map(|one| (text(&one["path"]), text(&one["status"]))).collect();
        states.sort();
        states
    }
}

/// A day in the life of a daemon, told by any client about any daemon.
fn a_day(client: PathBuf, daemon: &Path) {
    let mut stage = Stage::new(client);
    stage.launch(daemon);
    let (a, b, s) = (stage.text("a.db"), stage.text("b.db"), stage.text("s"));
    until("it is replicating", || stage.rows("ra") == 1);

    let info = stage.fine(&["info"]);
    let keys: Vec<_> = info.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(keys, ["  PID", "  Uptime", "  Started at", "  Databases"], "{info}");
    assert!(info.starts_with("Litestream ") && info.ends_with("\n  Databases:  1\n"), "{info}");
    let info = stage.json(&["info", "-json"]);
    assert_eq!(info["pid"], stage.daemon.as_ref().unwrap().id());
    assert_eq!(info["database_count"], 1);

    let list = stage.fine(&["list"]);
    assert!(list.starts_with(&format!("{a} [replicating] (last sync: 20")) && list.ends_with("Z)\n"), "{list}");

    sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
    let synced = ["db_path", "txid", "replica_txid", "duration_ms"];
    let db_path = format!("db_path: {a}");
    assert_eq!(stage.lines(&["sync", &a]), [&db_path, "txid: N", "duration_ms: N"]);
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (3)");
    assert_eq!(stage.lines(&["sync", "-wait", &a]), [&db_path, "txid: N", "replica_txid: N", "duration_ms: N"]);
    assert_eq!(stage.rows("ra"), 3, "on the replica before the command ends");
    let answer = stage.json(&["sync", "-wait", "-json", &a]);
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), synced);
    assert_eq!(answer["txid"], answer["replica_txid"]);

    let state = |status: &str, state: &str| {
        vec![
            format!("status: {status}"),
            db_path.clone(),
            format!("state: {state}"),
            "txid: N".to_owned(),
            format!("socket: {s}"),
        ]
    };
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (4)");
    assert_eq!(stage.lines(&["stop", &a]), state("stopped", "stopped"));
    assert_eq!(stage.rows("ra"), 4, "a stop uploads first");
    assert_eq!(stage.lines(&["stop", "-timeout", "0", &a]), state("already_stopped", "stopped"));
    assert!(stage.fine(&["list"]).starts_with(&format!("{a} [stopped] (last sync: ")));
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (5)");
    let refused = stage.ask(&["sync", &a]);
    let expected = format!("Error: sync failed: database not open: {a}\n");
    assert_eq!((refused.code, refused.stdout, refused.stderr), (Some(1), String::new(), expected));
    let keys = stage.json(&["start", "-json", &a]);
    assert_eq!(keys.as_object().unwrap().keys().collect::<Vec<_>>(), ["status", "db_path", "state", "txid", "socket"]);
    assert_eq!((&keys["status"], &keys["state"]), (&json!("started"), &json!("running")));
    assert_eq!(stage.lines(&["start", &a]), state("already_running", "running"));
    // The original (0.5.17) does not notice what was committed and checkpointed while it had the database closed.
    if *daemon == ours() {
        stage.arrives("ra", 5);
    }

    let url = format!("file://{}", stage.text("rb"));
    let registered = |status: &str| {
        vec![format!("status: {status}"), format!("db_path: {b}"), format!("replica: {url}"), format!("socket: {s}")]
    };
    assert_eq!(stage.lines(&["register", "-replica", &url, &b]), registered("registered"));
    assert_eq!(stage.lines(&["register", "-replica", &url, &b]), registered("already registered"));
    assert_eq!(stage.json(&["register", "-json", "-replica", &url, &b])["status"], "already_registered");
    until("it is replicating too", || stage.rows("rb") == 1);
    let replicating = "replicating".to_owned();
    assert_eq!(stage.states(), [(a.clone(), replicating.clone()), (b.clone(), replicating.clone())]);
    let preview = stage.fine(&["unregister", "-dry-run", &b]);
    let expected = format!("Dry run: unregister request preview\n  database: {b}\n  socket: {s}\n");
    assert!(preview.starts_with(&expected), "{preview}");
    assert!(preview.ends_with("  timeout: 30s\nNo unregister request was sent.\n"), "{preview}");
    sql(&stage.path("b.db"), "INSERT INTO t VALUES (2)");
    let unregistered = |status: &str| {
        vec![format!("status: {status}"), format!("db_path: {b}"), "final_txid: N".into(), format!("socket: {s}")]
    };
    assert_eq!(stage.lines(&["unregister", &b]), unregistered("unregistered"));
    assert_eq!(stage.rows("rb"), 2, "what was committed before is uploaded");
    assert_eq!(stage.lines(&["unregister", &b]), unregistered("already_unregistered"));
    assert_eq!(stage.states(), [(a, replicating)]);

    for command in ["start", "stop", "sync"] {
        let refused = stage.ask(&[command, "/nope.db"]);
        let expected = format!("Error: {command} failed: database not found: /nope.db\n");
        assert_eq!((refused.code, refused.stdout, refused.stderr), (Some(1), String::new(), expected));
    }
    let refused = stage.ask(&["register", "-replica", "foo://x", &b]);
    assert!(refused.stderr.starts_with("Error: register failed: invalid replica url: "), "{refused:?}");
    assert!(fs::metadata(stage.path("s")).unwrap().file_type().is_socket());
    assert_eq!(fs::metadata(stage.path("s")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(stage.end(), Some(0));
    assert!(!stage.path("s").exists(), "the socket goes with the daemon");
}

#[test]
fn our_program_asks_our_daemon() {
    a_day(ours(), &ours());
}

#[test]
fn the_official_program_asks_our_daemon() {
    if let Some(official) = official() {
        a_day(official, &ours());
    }
}

#[test]
fn our_program_asks_the_official_daemon() {
    if let Some(official) = official() {
        a_day(ours(), &official);
    }
}

/// What both programs say about wrong arguments and a socket that is not there.
#[test]
fn both_programs_refuse_alike() {
    let programs: Vec<PathBuf> = [Some(ours()), official()].into_iter().flatten().collect();
    for program in programs {
        let name = if program == ours() { "brooklet" } else { "litestream" };
        let stage = Stage::new(program);
        let required =
            |command: &str, example: &str| format!("Error: database path required\nTry: {name} {command} {example}\n");
        let refused = |words: &[&str]| {
            let ended = stage.ask(words);
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{words:?}");
            ended.stderr
        };
        for command in ["start", "stop", "sync", "unregister"] {
            assert_eq!(refused(&[command]), required(command, "/path/to/db"));
            assert_eq!(refused(&[command, "a", "b"]), "Error: too many arguments\n");
        }
        assert_eq!(refused(&["register"]), required("register", "-replica s3://bucket/prefix /path/to/db"));
        assert!(refused(&["register", "a.db"]).starts_with("Error: -replica is required\nTry: "));
        assert_eq!(refused(&["list", "x"]), "Error: too many arguments\n");
        for words in [&["list", "-timeout", "0"][..], &["sync", "-timeout", "-1", "a.db"]] {
            assert_eq!(refused(words), "Error: timeout must be greater than 0\n");
        }
        for words in [&["info"][..], &["list"], &["sync", "a.db"], &["stop", "a.db"]] {
            let text = refused(words);
            assert!(text.starts_with("Error: failed to connect to control socket: "), "{text}");
            assert!(text.contains("no such file or directory") || text.contains("No such file or directory"), "{text}");
        }
    }
}

#[test]
fn the_socket_speaks_http_as_the_original_does() {
    let programs: Vec<PathBuf> = [Some(ours()), official()].into_iter().flatten().collect();
    for program in programs {
        let mut stage = Stage::new(ours());
        stage.launch(&program);
        until("it is replicating", || stage.rows("ra") == 1);
        let raw = |method, target: &str, body| stage.raw(method, target, body);
        let error = |text: &str| format!("{{\"error\":\"{text}\"}}\n");
        assert_eq!(raw("GET", "/txid", ""), (400, error("path required")));
        assert_eq!(raw("GET", "/txid?path=/nope", ""), (404, error("database not found")));
        assert_eq!(raw("GET", "/txid?path=a.db", ""), (200, "{\"txid\":1}\n".to_owned()), "relative to the daemon");
        assert_eq!(raw("GET", "/nope", ""), (404, "404 page not found\n".to_owned()));
        assert_eq!(raw("GET", "/start", ""), (405, "Method Not Allowed\n".to_owned()));
        assert_eq!(raw("POST", "/list", "").0, 405);
        for route in ["/start", "/stop", "/sync", "/unregister", "/register"] {
            assert_eq!(raw("POST", route, "{}"), (400, error("path required")), "{route}");
            for broken in ["", "{", "[1", "{\"path\":1}"] {
                let (status, body) = raw("POST", route, broken);
                assert!(body.starts_with("{\"error\":\"invalid request body\",\"details\":\""), "{body}");
                assert_eq!(status, 400);
            }
        }
        assert_eq!(raw("POST", "/register", "{\"path\":\"b.db\"}"), (400, error("replica_url required")));
        let (status, body) = raw("POST", "/start", "{\"path\":\"/nope<&>\"}");
        assert_eq!(body, error("database not found: /nope\\u003c\\u0026\\u003e"));
        assert!([404, 500].contains(&status));
        let a = stage.text("a.db");
        let status = |status: &str| format!("{{\"status\":\"{status}\",\"path\":\"{a}\",\"txid\":");
        for (body, expected) in
            [("{\"path\":\"a.db\",\"zzz\":1}", "no_change"), ("{\"path\":\"a.db\",\"wait\":true}", "no_change")]
        {
            let (code, text) = raw("POST", "/sync", body);
            assert!(code == 200 && text.starts_with(&status(expected)), "{text}");
        }
        sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
        assert_eq!(stage.rows("ra"), 1);
        let (_, text) = raw("POST", "/sync", "{\"path\":\"sqlite://a.db\",\"wait\":true,\"timeout\":60}");
        assert_eq!(text, format!("{}2,\"replicated_txid\":2}}\n", status("synced")));
        let (code, text) = raw("GET", "/debug/sync-status?path=a.db", "");
        let diagnostics: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &diagnostics["databases"][0]["path"]), (200, &json!(a)));
        assert_eq!(raw("GET", "/debug/sync-status?path=/nope", "").0, 404);
        stage.end();
    }
}

/// F93: what is asked for twice, or by many at once, is done once.
#[test]
fn a_hundred_at_once_leave_one_sound_daemon() {
    let mut stage = Stage::new(ours());
    stage.launch(&ours());
    let (b, url) = (stage.text("b.db"), format!("file://{}", stage.text("rb")));
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (stage, b, url) = (&stage, &b, &url);
            scope.spawn(move || {
                let path = json!({"path": "a.db", "timeout": 60}).to_string();
                for round in 0..5 {
                    let answer = match (n + round) % 5 {
                        0 => stage.raw("POST", "/stop", &path),
                        1 => stage.raw("POST", "/start", &path),
                        2 => stage.raw("POST", "/register", &json!({"path": b, "replica_url": url}).to_string()),
                        3 => stage.raw("POST", "/unregister", &json!({"path": b, "timeout": 60}).to_string()),
                        _ => stage.raw("POST", "/reload", "{}"),
                    };
                    assert!(answer.0 == 200 || answer.1.contains("removed meanwhile"), "{answer:?}");
                }
            });
        }
    });
    stage.fine(&["start", "a.db"]);
    stage.fine(&["register", "-replica", &url, &b]);
    for name in ["a", "b"] {
        sql(&stage.path(&format!("{name}.db")), "INSERT INTO t VALUES (2)");
        stage.fine(&["sync", "-wait", "-timeout", "60", &stage.text(&format!("{name}.db"))]);
        assert_eq!(stage.rows(&format!("r{name}")), 2);
    }
    assert_eq!(stage.end(), Some(0), "{}", stage.log());
}

/// Two histories in one place would fight over its names.
#[test]
fn of_two_that_are_registered_at_one_place_at_once_one_is_refused() {
    let mut stage = Stage::new(ours());
    stage.launch(&ours());
    let url = format!("file://{}", stage.text("one-place"));
    for round in 0..20 {
        let together = std::sync::Barrier::new(2);
        let (stage, url, together) = (&stage, &url, &together);
        let register = move |name: &str| {
            let body = json!({"path": stage.text(name), "replica_url": url}).to_string();
            together.wait();
            stage.raw("POST", "/register", &body)
        };
        let answers = std::thread::scope(|scope| {
            let [b, c] = ["b.db", "c.db"].map(|name| scope.spawn(move || register(name)));
            [b.join().unwrap(), c.join().unwrap()]
        });
        let refused = answers.iter().filter(|(code, text)| *code == 500 && text.contains("are in one place")).count();
        assert_eq!(refused, 1, "round {round}: {answers:?}");
        let taken = if answers[0].0 == 200 { "b.db" } else { "c.db" };
        stage.fine(&["unregister", &stage.text(taken)]);
    }
    assert_eq!(stage.end(), Some(0), "{}", stage.log());
}

/// F92: a client that goes away does not leave a database half stopped.
#[test]
fn a_stop_whose_client_has_gone_is_finished_all_the_same() {
    let mut stage = Stage::new(ours());
    stage.launch(&ours());
    until("it is replicating", || stage.rows("ra") == 1);
    for _ in 0..10 {
        let body = json!({"path": "a.db"}).to_string();
        let mut stream = UnixStream::connect(stage.path("s")).unwrap();
        write!(stream, "POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        drop(stream);
    }
    // Whatever of them arrived, the daemon is sound.
    stage.fine(&["stop", "a.db"]);
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
    stage.fine(&["start", "a.db"]);
    stage.fine(&["sync", "-wait", "a.db"]);
    assert_eq!(stage.rows("ra"), 2);
    assert_eq!(stage.end(), Some(0));
}

#[test]
fn waiting_uploads_nothing_sooner_and_ends_when_every_replica_has_it() {
    let mut stage = Stage::new(ours());
    let text = format!(
        "socket: {{enabled: true, path: {}}}\ndbs:\n  - path: {}\n    replicas:\n      - {{path: {}, name: fast, sync-interval: 100ms}}\n      - {{path: {}, name: slow, sync-interval: 3s}}\n",
        stage.text("s"),
        stage.text("a.db"),
        stage.text("fast"),
        stage.text("slow")
    );
    fs::write(stage.path("c.yml"), text).unwrap();
    stage.launch(&ours());
    stage.fine(&["wait", "a.db", "-timeout", "60s"]);
    assert_eq!((stage.rows("fast"), stage.rows("slow")), (1, 1));
    // Right after an upload, so that the next one has to wait its three seconds.
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
    stage.fine(&["sync", "-wait", "a.db"]);
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (3)");
    let synced = stage.json(&["sync", "-json", "a.db"]);
    let txid = synced["txid"].to_string();
    let late = stage.ask(&["wait", "-timeout", "1", "-txid", &txid, "a.db"]);
    assert_eq!((late.code, late.stdout.as_str()), (Some(1), ""));
    assert!(
        late.stderr.contains("wait failed: not confirmed in time: replica slow is still behind"),
        "{}",
        late.stderr
    );
    assert_eq!(
        stage.lines(&["wait", "a.db", "-txid", &txid, "-timeout", "60"]),
        [
            format!("db_path: {}", stage.text("a.db")),
            "txid: N".to_owned(),
            "replica_txid: N".to_owned(),
            "duration_ms: N".to_owned()
        ]
    );
    assert_eq!((stage.rows("fast"), stage.rows("slow")), (3, 3));
    // One that does not exist yet is waited for in vain, and that is said.
    let future = stage.ask(&["wait", "-timeout", "1", "-txid", "1000", "a.db"]);
    assert!(future.stderr.contains("nothing new was captured"), "{}", future.stderr);
    assert_eq!(stage.ask(&["wait", "-txid", "x", "a.db"]).code, Some(1));
    stage.end();
}

/// F38: our guard is a reader, so an application cannot take its database out of WAL mode.
/// Once we have let go of it, it can; what it does then is replicated as soon as it is back.
#[test]
fn an_application_leaves_wal_mode_while_its_database_is_stopped() {
    let mut stage = Stage::new(ours());
    stage.launch(&ours());
    until("it is replicating", || stage.rows("ra") == 1);
    let leave = || {
        let script = [".timeout 100", "PRAGMA journal_mode=delete"];
        Command::new("sqlite3").arg(stage.path("a.db")).args(script).output().unwrap()
    };
    let refused = leave();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("locked"), "{refused:?}");
    stage.fine(&["stop", "a.db"]);
    let left = leave();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "delete\n", "{left:?}");
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
    // Taken up before it is in WAL mode again, it is left alone, and what it lacks is told.
    stage.fine(&["start", "a.db"]);
    until("it is told", || stage.log().contains("switch it with `PRAGMA journal_mode=WAL`"));
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (3)");
    assert_eq!(stage.rows("ra"), 1);
    sql(&stage.path("a.db"), "PRAGMA journal_mode=wal; INSERT INTO t VALUES (4)");
    stage.arrives("ra", 4);
    assert_eq!(stage.end(), Some(0));
}

#[test]
fn a_reload_applies_what_is_different() {
    let mut stage = Stage::new(ours());
    stage.config(&["a", "b"]);
    stage.launch(&ours());
    until("both are replicating", || stage.rows("ra") == 1 && stage.rows("rb") == 1);
    // One goes, one comes, one stays.
    stage.config(&["a", "c"]);
    sql(&stage.path("b.db"), "INSERT INTO t VALUES (2)");
    stage.send(Signal::HUP);
    until("the new one is replicating", || stage.rows("rc") == 1);
    until("it says so", || stage.log().contains("msg=\"config reloaded\" added=1 removed=1 changed=0 unchanged=1"));
    assert_eq!(stage.rows("rb"), 2, "what was committed before is uploaded");
    let replicating =
        |names: &[&str]| names.iter().map(|name| (stage.text(name), "replicating".to_owned())).collect::<Vec<_>>();
    assert_eq!(stage.states(), replicating(&["a.db", "c.db"]));
    sql(&stage.path("b.db"), "INSERT INTO t VALUES (3)");
    // A stopped one stays stopped, also with other settings.
    stage.fine(&["stop", "a.db"]);
    stage.config_with("busy-timeout-is-not-a-top-level-key: 1\nsync-interval: 200ms", &["a", "b", "c"]);
    let text = fs::read_to_string(stage.path("c.yml")).unwrap();
    fs::write(stage.path("c.yml"), text.replacen("sync-interval: 100ms", "sync-interval: 300ms", 1)).unwrap();
    let answer = stage.json(&["reload", "-json"]);
    let expected = json!({
        "added": [stage.text("b.db")], "removed": [], "changed": [stage.text("a.db")], "unchanged": 1, "remarks": []
    });
    assert_eq!(answer, expected);
    assert!(stage.states().contains(&(stage.text("a.db"), "stopped".to_owned())), "{:?}", stage.states());
    until("the one that came back catches up", || stage.rows("rb") == 3);
    stage.fine(&["start", "a.db"]);
    // A registered one stays, unless the config takes it over.
    stage.config(&["a"]);
    stage.fine(&[
        "register",
        "-replica",
        &format!("file://{}", stage.text("elsewhere")),
        "-timeout",
        "9",
        &stage.text("b.db"),
    ]);
    let ended = stage.ask(&["reload"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    stage.end();
}

/// F92: nothing is changed by halves.
#[test]
fn a_config_with_a_mistake_changes_nothing_and_says_why() {
    let mut stage = Stage::new(ours());
    stage.launch(&ours());
    until("it is replicating", || stage.rows("ra") == 1);
    let good = fs::read_to_string(stage.path("c.yml")).unwrap();
    let (b, rb) = (stage.text("b.db"), stage.text("rb"));
    let mistakes = [
        (format!("{good}  - {{path: {b}}}\n"), "must specify replica for database"),
        (format!("{good}  - {{path: {b}, replica: {{url: \"foo://x\"}}}}\n"), "foo"),
        (format!("{good}  - [1]\n"), "yaml: unmarshal errors:"),
        (format!("{good}  - {{path: {b}, replica: {{path: {}}}}}\n", stage.text("ra")), "in one place"),
        (
            format!("dbs:\n  - {{path: {b}, replica: {{path: {rb}}}}}\n  - {{path: {b}, replica: {{path: {rb}2}}}}\n"),
            "twice",
        ),
        ("dbs: [".to_owned(), "yaml: "),
        (String::new(), "half written"),
        (good.lines().take(2).collect::<Vec<_>>().join("\n"), "half written"),
    ];
    for (text, reason) in &mistakes {
        fs::write(stage.path("c.yml"), text).unwrap();
        let refused = stage.ask(&["reload"]);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{text}");
        assert!(refused.stderr.starts_with("Error: reload failed: ") && refused.stderr.contains(reason), "{refused:?}");
        stage.send(Signal::HUP);
    }
    fs::remove_file(stage.path("c.yml")).unwrap();
    assert!(stage.ask(&["reload"]).stderr.contains("config file not found"));
    until("it was logged", || stage.log().matches("config not reloaded: everything stays as it was").count() >= 1);
    assert_eq!(stage.states(), [(stage.text("a.db"), "replicating".to_owned())]);
    sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
    stage.fine(&["sync", "-wait", "a.db"]);
    assert_eq!(stage.rows("ra"), 2);
    assert!(!stage.path("rb").exists());
    // To have none at all has to be said.
    fs::write(stage.path("c.yml"), "dbs: []\n").unwrap();
    stage.fine(&["reload"]);
    assert_eq!(stage.fine(&["list"]), "No databases configured\n");
    assert_eq!(stage.end(), Some(0));
}

#[test]
fn a_daemon_without_a_config_has_a_socket_if_it_is_told_where() {
    let mut stage = Stage::new(ours());
    let (a, url) = (stage.text("a.db"), format!("file://{}", stage.text("ra")));
    let socket = stage.text("s");
    stage.launch_with(&ours(), &["-socket", &socket, &a, &url]);
    until("the socket is there", || stage.path("s").exists());
    stage.fine(&["sync", "-wait", "-timeout", "60", "a.db"]);
    assert_eq!(stage.rows("ra"), 1);
    assert!(stage.ask(&["reload"]).stderr.contains("there is no config to reload"));
    stage.send(Signal::HUP);
    until("it says so", || stage.log().contains("there is no config to reload"));
    assert_eq!(fs::metadata(stage.path("s")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(stage.end(), Some(0));
}

/// A socket that cannot be had is no reason not to replicate.
#[test]
fn replication_goes_on_without_a_socket() {
    let mut stage = Stage::new(ours());
    fs::write(stage.path("s"), "no socket").unwrap();
    stage.launch_with(&ours(), &["-config", "c.yml"]);
    until("it is replicating", || stage.rows("ra") == 1);
    assert!(stage.log().contains("failed to start control server"), "{}", stage.log());
    assert_eq!(stage.end(), Some(0));
    assert_eq!(fs::read_to_string(stage.path("s")).unwrap(), "no socket");
}

/// And the commands find the socket that the config names.
#[test]
fn commands_find_the_socket_of_the_config() {
    let mut stage = Stage::new(ours());
    stage.launch(&ours());
    let config = stage.text("c.yml");
    let ask = |words: &[&str], variable: bool| {
        let mut command = Command::new(ours());
        command.args(words);
        if variable {
            command.env("LITESTREAM_CONFIG", &config);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(ask(&["info", "-config", &config], false), Some(0));
    assert_eq!(ask(&["list"], true), Some(0));
    assert_eq!(ask(&["info", "-config", "/nope.yml"], false), Some(1));
    stage.end();
}

#[test]
fn a_reset_forgets_the_local_state_and_nothing_else() {
    let programs: Vec<PathBuf> = [Some(ours()), official()].into_iter().flatten().collect();
    for daemon in programs {
        let mut stage = Stage::new(ours());
        stage.launch(&daemon);
        until("it is replicating", || stage.rows("ra") == 1);
        let dir = stage.dir.path().to_owned();
        let reset = |words: &[&str]| {
            let output = Command::new(ours()).arg("reset").args(words).current_dir(&dir).output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        };
        if daemon == ours() {
            let (code, out, err) = reset(&["a.db"]);
            assert_eq!((code, out.as_str()), (Some(1), ""), "the daemon is at work on it");
            assert!(err.contains("another process is replicating this database"), "{err}");
            assert!(err.ends_with(&format!("\nTry: brooklet stop {}\n", stage.text("a.db"))), "{err}");
        }
        stage.end();
        let a = stage.text("a.db");
        let (code, out, _) = reset(&["-dry-run", "a.db"]);
        assert_eq!(code, Some(0));
        let expected = format!("Dry run: local Litestream state would be reset for: {a}\nWould remove: ");
        assert!(out.starts_with(&expected) && out.ends_with("No files were removed.\n"), "{out}");
        assert!(out.contains("Files that would be removed:\n  /"), "{out}");
        let state = stage.path(".a.db-litestream");
        let before = fs::read_dir(&state).unwrap().count();
        let (code, out, err) = reset(&["-config", "c.yml", "a.db"]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.starts_with(&format!("Resetting local Litestream state for: {a}\nRemoving: ")), "{out}");
        assert!(out.ends_with("Reset complete. Next replication sync will create a fresh snapshot.\n"), "{out}");
        assert!(fs::read_dir(&state).unwrap().count() < before);
        let (code, out, _) = reset(&["a.db"]);
        assert!(code == Some(0) && out.contains("Nothing to reset."), "{out}");
        sql(&stage.path("a.db"), "INSERT INTO t VALUES (2)");
        stage.launch(&ours());
        stage.fine(&["sync", "-wait", "-timeout", "60", "a.db"]);
        assert_eq!(stage.rows("ra"), 2);
        stage.end();
        let missing = reset(&["/nope.db"]);
        assert_eq!(missing, (Some(1), String::new(), "Error: database does not exist: /nope.db\n".to_owned()));
    }
}

/// Litestream's columns, whoever is asked.
fn table(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().take_while(|line| !line.is_empty());
    lines
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect())
        .collect()
}

#[test]
fn status_asks_the_daemon_and_without_one_the_files_and_the_replicas() {
    let mut stage = Stage::new(ours());
    stage.config(&["a", "b"]);
    let run = |words: &[&str]| {
        let output = Command::new(ours()).arg("status").args(words).current_dir(stage.dir.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (a, header) = (stage.text("a.db"), ["database", "status", "local txid", "wal size"]);
    // Before the first start.
    let (code, out, err) = run(&["-config", "c.yml", "a.db"]);
    assert_eq!((code, table(&out)[0].clone()), (Some(0), header.map(str::to_owned).to_vec()));
    assert_eq!(table(&out)[1][..2], [a.clone(), "not initialized".to_owned()], "{out}");
    assert!(err.contains("no daemon answers at"), "{err}");
    stage.launch(&ours());
    for name in ["a.db", "b.db"] {
        stage.fine(&["sync", "-wait", "-timeout", "60", name]);
    }
    let txid = format!("{:016x}", stage.json(&["sync", "-json", "a.db"])["txid"].as_u64().unwrap());
    let out = stage.fine(&["status", "a.db"]);
    assert_eq!(table(&out)[1][..3], [a.clone(), "ok".to_owned(), txid.clone()], "{out}");
    assert!(out.contains(&format!("\n{a}: ok\n")) && out.contains("  replica file (file): ok\n"), "{out}");
    assert!(
        out.contains(&format!("confirmed: {txid} of 20")) && out.contains("lag: 0 s, 0 B; restorable: 20"),
        "{out}"
    );
    assert_eq!(table(&stage.fine(&["status"])).len(), 3);
    let json = stage.json(&["status", "-json"]);
    let row = &json[0];
    let keys: Vec<_> = row.as_object().unwrap().keys().take(4).collect();
    assert_eq!(keys, ["database", "status", "local_txid", "wal_size"]);
    assert_eq!((&row["source"], &row["health"], &row["guard"]), (&json!("daemon"), &json!("ok"), &json!(true)));
    stage.fine(&["stop", "b.db"]);
    assert_eq!(table(&stage.fine(&["status", "b.db"]))[1][1], "stopped");
    // One that is not the daemon's, and not in the config.
    let unknown = stage.ask(&["status", "-config", "c.yml", "c.db"]);
    assert!(unknown.stderr.contains("database not found in config: "), "{unknown:?}");
    stage.end();

    let run = |words: &[&str]| {
        let output = Command::new(ours()).arg("status").args(words).current_dir(stage.dir.path()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (out, err) = run(&["-config", "c.yml"]);
    assert!(err.contains("Warning: no daemon answers at"), "{err}");
    assert_eq!(table(&out)[1][..3], [a.clone(), "ok".to_owned(), txid], "all that was captured is there: {out}");
    // A commit that nobody captures.
    let writer = rusqlite::Connection::open(stage.path("a.db")).unwrap();
    writer.execute("INSERT INTO t VALUES (9)", []).unwrap();
    let (out, _) = run(&["-config", "c.yml", "-json", "a.db"]);
    let row: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&row[0]["status"], &row[0]["source"]), (&json!("error"), &json!("files")), "{out}");
    assert!(row[0]["uncaptured_frames"].as_u64().unwrap() > 0, "{out}");
    drop(writer);
    // A replica that lost what it had, and a database that is gone.
    fs::remove_dir_all(stage.path("rb")).unwrap();
    let (out, _) = run(&["-config", "c.yml", "b.db"]);
    assert!(out.contains(": error") || table(&out)[1][1] == "error", "{out}");
    assert!(out.contains("replica file (file): failed: it holds nothing"), "{out}");
    fs::remove_file(stage.path("b.db")).unwrap();
    fs::remove_dir_all(stage.path(".b.db-litestream")).unwrap();
    let (out, _) = run(&["-config", "c.yml", "b.db"]);
    assert_eq!(table(&out)[1][1..], ["no database", "-", "-"], "{out}");
}

/// A socket that was asked for by name must answer.
#[test]
fn status_does_not_pretend_that_a_daemon_answered() {
    let stage = Stage::new(ours());
    let refused = stage.ask(&["status"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.starts_with("Error: failed to connect to control socket: "), "{refused:?}");
}

#[test]
fn our_status_of_the_official_daemon_comes_from_the_files() {
    let Some(official) = official() else { return };
    let mut stage = Stage::new(ours());
    stage.launch(&official);
    stage.fine(&["sync", "-wait", "-timeout", "60", "a.db"]);
    let socket = stage.text("s");
    let words = ["status", "-socket", &socket, "-config", "c.yml", "a.db"];
    let output = Command::new(ours()).args(words).current_dir(stage.dir.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot tell"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("confirmed: 0000000000000001"), "{output:?}");
    stage.end();
}
