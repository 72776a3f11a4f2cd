//! What those see who want to know how things are: metrics, health, the JSON of
//! the page, `check`, the heartbeat and the webhook, against the real program or a
//! daemon in this process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brooklet::daemon::Kept;
use brooklet::health::Objective;
use brooklet::observe::{Heartbeat, Observed, Observer, Options, Source, Template, Webhook};
use brooklet::serve::{Answer, Limits, Request, Server};
use brooklet::status::{DatabaseFacts, Health, ReplicaFacts, Seen};
use brooklet::types::Secret;
use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::running::{TABLE, database, insert};

const PATIENCE: Duration = Duration::from_secs(60);

/// The program while it runs; ended by force when the test is over.
struct Running {
    child: Child,
    addr: String,
    config: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Follows a database, with what else the config is to say.
    fn start(dir: &Path, path: &Path, more: &str) -> Self {
        Self::start_at("127.0.0.1:0", dir, path, more, |_| {})
    }

    /// The same at an address, with a look at each line of the log until it is served there.
    fn start_at(addr: &str, dir: &Path, path: &Path, more: &str, mut look: impl FnMut(&str)) -> Self {
        let config = dir.join("litestream.yml");
        let text = format!(
            "addr: \"{addr}\"\n{more}\ndbs:\n  - path: {}\n    replica: {{name: files, path: {}, sync-interval: 100ms}}\n",
            path.display(),
            dir.join("replica").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_brooklet"))
            .args(["replicate", "-config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let served = lines.find(|line| {
            look(line);
            line.contains("serving metrics on")
        });
        let served = served.expect("the program tells where");
        let url = served.split("url=").nth(1).unwrap().split_whitespace().next().unwrap().trim_matches('"');
        let addr = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
        // Somebody must read on, or the program stops at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, addr, config }
    }

    fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n");
        ask(&self.addr, &request)
    }

    fn check(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(["check", "-addr", &self.addr, "-config"]).arg(&self.config).args(words).output().unwrap()
    }

    fn until_ok(&self, token: Option<&str>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, body) = self.get("/api/status", token);
            let status: serde_json::Value = serde_json::from_str(&body).unwrap();
            if status["status"] == "ok" && status["databases"][0]["replicas"][0]["txid"].is_string() {
                return;
            }
            assert!(Instant::now() < deadline, "{status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// One request, and its answer to the end.
fn ask(addr: &str, request: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The acceptance list's ninth point, and all doors of a program that runs.
#[test]
fn a_running_program_shows_how_it_is_at_every_door() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let program = Running::start(dir.path(), &path, "");
    program.until_ok(None);
    insert(&app, 3);
    let db = format!("db=\"{}\"", path.display());
    let deadline = Instant::now() + PATIENCE;
    let metrics = loop {
        let (status, metrics) = program.get("/metrics", None);
        assert_eq!(status, 200);
        if !metrics.contains(&format!("litestream_sync_count{{{db}}} 0\n")) {
            break metrics;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        std::thread::sleep(Duration::from_millis(50));
    };
    program.until_ok(None);
    for name in [
        "litestream_db_size",
        "litestream_wal_size",
        "litestream_total_wal_bytes",
        "litestream_sync_count",
        "litestream_sync_error_count",
        "litestream_sync_seconds",
        "brooklet_guard_held",
    ] {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{{db}}} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}"));
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value > 0.0 || name == "litestream_sync_error_count", "{line}");
    }
    let metrics = program.get("/metrics", None).1;
    let value = |line: &str| metrics.lines().find_map(|shown| shown.strip_prefix(line)).unwrap_or_default().to_owned();
    assert!(value("litestream_replica_operation_total{replica_type=\"file\",operation=\"PUT\"}").trim() != "0");
    assert!(value(&format!("brooklet_confirmed_txid{{{db},replica=\"files\"}}")).trim() != "0");
    assert_eq!(value("brooklet_health").trim(), "0");
    assert_eq!(program.get("/healthz", None), (200, "ok: 1 ok, 0 degraded, 0 failed\n".to_owned()));
    assert_eq!(program.get("/readyz", None).0, 200);
    let (status, page) = program.get("/", None);
    assert!(status == 200 && page.starts_with("<!doctype html>"));
    let (_, detail) = program.get("/api/database?id=0", None);
    let detail: serde_json::Value = serde_json::from_str(&detail).unwrap();
    assert!(detail["timelines"][0]["points"].as_u64().unwrap() > 0, "{detail:#}");
    assert!(detail["timelines"][0]["generations"][0]["generation"].is_string(), "{detail:#}");
    assert_eq!(program.get("/elsewhere", None).0, 404);
    assert_eq!(ask(&program.addr, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").0, 405);
}

/// The program before it, which is just ending, may still have the address.
#[test]
fn an_address_that_another_program_has_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _app) = database(dir.path(), TABLE);
    let mut other = Some(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = other.as_ref().unwrap().local_addr().unwrap().to_string();
    let mut refusals = 0;
    let program = Running::start_at(&addr, dir.path(), &path, "", |line| {
        if line.contains("cannot start metrics server") {
            assert!(line.contains("Address already in use") && line.contains("retry=5s"), "{line}");
            refusals += 1;
            other = None;
        }
    });
    assert_eq!((refusals, program.addr.as_str()), (1, addr.as_str()));
    program.until_ok(None);
}

#[test]
fn without_the_token_nothing_but_health_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _app) = database(dir.path(), TABLE);
    std::fs::write(dir.path().join("token"), "s3cret\n").unwrap();
    let more = format!("addr-token-file: {}", dir.path().join("token").display());
    let program = Running::start(dir.path(), &path, &more);
    program.until_ok(Some("s3cret"));
    assert_eq!(program.get("/healthz", None).0, 200);
    for (token, expected) in [(None, 401), (Some("s3cre"), 401), (Some("s3cret"), 200)] {
        for path in ["/", "/metrics", "/api/status"] {
            assert_eq!(program.get(path, token).0, expected, "{path} {token:?}");
        }
    }
    // The config says where the token is.
    assert_eq!(program.check(&[]).status.code(), Some(0));
    std::fs::write(dir.path().join("other"), "wrong").unwrap();
    let refused = program.check(&["-token-file", dir.path().join("other").to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
}

#[test]
fn check_answers_as_monitoring_systems_expect() {
    let dir = tempfile::tempdir().unwrap();
    let (path, app) = database(dir.path(), TABLE);
    let mut program = Running::start(dir.path(), &path, "health-objective: 1s");
    program.until_ok(None);
    let well = program.check(&["-warning", "30s", "-critical", "5m"]);
    let shown = text(&well);
    assert_eq!(well.status.code(), Some(0), "{shown}");
    assert!(shown.starts_with(&format!("BROOKLET OK - {} is replicated", path.display())), "{shown}");
    assert!(shown.contains(" | lag=") && shown.contains("s;30;300;0 databases=1;;;0"), "{shown}");
    assert_eq!(program.check(&[path.to_str().unwrap()]).status.code(), Some(0));
    assert_eq!(program.check(&["/not/there"]).status.code(), Some(3));
    assert_eq!(program.check(&["-nonsense"]).status.code(), Some(3));
    // The replica refuses to be written: a file stands where a directory is needed.
    let replica = dir.path().join("replica");
    std::fs::rename(&replica, dir.path().join("away")).unwrap();
    std::fs::write(&replica, "in the way").unwrap();
    insert(&app, 1);
    let deadline = Instant::now() + PATIENCE;
    let failed = loop {
        let failed = program.check(&[]);
        if failed.status.code() == Some(2) {
            break text(&failed);
        }
        assert!(Instant::now() < deadline, "{}", text(&failed));
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(failed.starts_with("BROOKLET CRITICAL - ") && failed.contains("replica files: commits wait"), "{failed}");
    assert_eq!(program.get("/healthz", None).0, 503);
    std::fs::remove_file(&replica).unwrap();
    std::fs::rename(dir.path().join("away"), &replica).unwrap();
    program.until_ok(None);
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    let gone = program.check(&[]);
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone));
    assert!(text(&gone).starts_with("BROOKLET WARNING - no daemon answers at "), "{}", text(&gone));
    std::fs::remove_dir_all(&replica).unwrap();
    let lost = program.check(&[]);
    assert_eq!(lost.status.code(), Some(2), "{}", text(&lost));
}

/// Without an address, the control socket is asked.
#[test]
fn check_asks_over_the_control_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _app) = database(dir.path(), TABLE);
    let socket = dir.path().join("control");
    let enabled = format!("socket: {{enabled: true, path: {}}}", socket.display());
    let mut program = Running::start(dir.path(), &path, &enabled);
    program.until_ok(None);
    let without_addr = dir.path().join("socket.yml");
    let config = std::fs::read_to_string(&program.config).unwrap();
    std::fs::write(&without_addr, config.split_once('\n').unwrap().1).unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brooklet"));
        command.args(["check", "-config"]).arg(&without_addr).output().unwrap()
    };
    let well = check();
    assert_eq!(well.status.code(), Some(0), "{}", text(&well));
    assert!(text(&well).starts_with("BROOKLET OK - "), "{}", text(&well));
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    let gone = check();
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone));
    assert!(text(&gone).contains(&format!("no daemon answers at {}", socket.display())), "{}", text(&gone));
}

/// Databases that are as a test wants them.
#[derive(Default)]
struct Made(Mutex<Vec<Health>>);

impl Made {
    fn set(&self, health: &[Health]) {
        *self.0.lock().unwrap() = health.to_vec();
    }
}

impl Source for Made {
    fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts)) {
        for (id, health) in self.0.lock().unwrap().iter().enumerate() {
            let since = Instant::now().checked_sub(Duration::from_secs(60));
            let replicas = vec![ReplicaFacts { name: "s3".to_owned(), ..ReplicaFacts::default() }];
            let seen = Some(Seen { frames: 1, bytes: 4152, uncaptured: None, guard: true });
            let path = PathBuf::from(format!("/data/{id}.db"));
            let looked = Some(Instant::now());
            let health = health.clone();
            look(
                id as u64,
                &DatabaseFacts { path: path.into(), health, replicas, since, looked, seen, ..DatabaseFacts::default() },
            );
        }
    }

    fn observe(&self) -> Vec<Observed> {
        let mut all = Vec::new();
        self.each(&mut |id, facts| all.push(Observed { id, facts: facts.clone(), ..Observed::default() }));
        all
    }

    fn kept(&self, _: u64, _: usize) -> Option<Kept> {
        None
    }
}

/// Whoever is called: what was said, and how it answers.
struct Ear {
    server: Server,
    heard: Arc<Mutex<Vec<Request>>>,
    deaf: Arc<Mutex<bool>>,
}

impl Ear {
    async fn new() -> Self {
        let (heard, deaf) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<Mutex<bool>>::default());
        let (theirs, how) = (heard.clone(), deaf.clone());
        let handler = Arc::new(move |request: Request| {
            theirs.lock().unwrap().push(request);
            let status = if *how.lock().unwrap() { StatusCode::BAD_GATEWAY } else { StatusCode::NO_CONTENT };
            let answer: futures::future::BoxFuture<'static, Answer> = Box::pin(async move { Answer::text(status, "") });
            answer
        });
        Self { server: Server::tcp("127.0.0.1:0", Limits::default(), handler).await.unwrap(), heard, deaf }
    }

    fn url(&self, path: &str) -> Secret {
        Secret::new(format!("http://{}{path}", self.server.address().unwrap()))
    }

    async fn hears(&self, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let heard = self.heard.lock().unwrap().clone();
            if heard.len() >= count {
                return heard;
            }
            assert!(Instant::now() < deadline, "{count} calls are expected, not {}", heard.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn broken() -> Health {
    Health::Broken("cannot say \"why\"".to_owned())
}

fn observer(source: &Arc<Made>) -> Arc<Observer> {
    let options = Options { objective: Objective::new(Some(Duration::from_secs(2))), ..Options::default() };
    Observer::new(source.clone(), options)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heart_beats_only_while_all_is_well() {
    let (ear, source) = (Ear::new().await, Arc::new(Made::default()));
    let interval = Duration::from_millis(50);
    let heartbeat = Heartbeat { url: ear.url("/beat"), interval };
    source.set(&[Health::Live, broken()]);
    let observer = observer(&source);
    let monitor = tokio::spawn(observer.clone().monitor(Some(heartbeat), None));
    // Three looks, of which none may lead to a call.
    tokio::time::sleep(Duration::from_millis(3200)).await;
    assert_eq!(ear.heard.lock().unwrap().len(), 0);
    source.set(&[Health::Waiting("not there".to_owned())]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ear.heard.lock().unwrap().len(), 0, "nothing is followed");
    source.set(&[Health::Live, Health::Waiting("not there".to_owned())]);
    let heard = ear.hears(2).await;
    assert_eq!((heard[0].method.as_str(), heard[0].path.as_str()), ("GET", "/beat"));
    *ear.deaf.lock().unwrap() = true;
    let so_far = ear.heard.lock().unwrap().len();
    ear.hears(so_far + 2).await;
    monitor.abort();
    let metrics = observer.metrics();
    let count = |result: &str| -> u64 {
        let line = format!("brooklet_heartbeats_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|shown| shown.strip_prefix(&line)).unwrap().parse().unwrap()
    };
    assert!(count("ok") >= 2 && count("failed") >= 1, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_health_is_told_until_it_is_heard() {
    let (ear, source) = (Ear::new().await, Arc::new(Made::default()));
    source.set(&[Health::Live, Health::Live]);
    *ear.deaf.lock().unwrap() = true;
    let headers = vec![("X-Token".to_owned(), Secret::new("abc"))];
    let webhook = Webhook { url: ear.url("/hook"), headers, body: None };
    let monitor = tokio::spawn(observer(&source).monitor(None, Some(webhook)));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ear.heard.lock().unwrap().len(), 0, "that all is well is no news");
    source.set(&[Health::Live, broken()]);
    ear.hears(2).await;
    *ear.deaf.lock().unwrap() = false;
    let so_far = ear.heard.lock().unwrap().len();
    let heard = ear.hears(so_far + 1).await;
    let call = heard.last().unwrap();
    assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/hook"));
    assert_eq!(call.headers["x-token"], "abc");
    let said: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!((said["status"].as_str(), said["count"].as_u64()), (Some("failed"), Some(1)));
    assert_eq!(
        (said["databases"][0]["path"].as_str(), said["databases"][0]["previous"].as_str()),
        (Some("/data/1.db"), Some("ok"))
    );
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(ear.heard.lock().unwrap().len(), heard.len(), "it is told once");
    source.set(&[Health::Live, Health::Live]);
    let heard = ear.hears(heard.len() + 1).await;
    let said: serde_json::Value = serde_json::from_slice(&heard.last().unwrap().body).unwrap();
    assert_eq!((said["status"].as_str(), said["databases"][0]["status"].as_str()), (Some("ok"), Some("ok")));
    monitor.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_says_it_in_the_words_of_its_template() {
    let (ear, source) = (Ear::new().await, Arc::new(Made::default()));
    source.set(&[broken(), broken(), broken()]);
    let body = Template::new("{\"text\": \"{{message}}\", \"n\": {{count}}}").unwrap();
    let headers = vec![("Content-Type".to_owned(), Secret::new("application/x-mine"))];
    let webhook = Webhook { url: ear.url("/"), headers, body: Some(body) };
    let monitor = tokio::spawn(observer(&source).monitor(None, Some(webhook)));
    let call = ear.hears(1).await.remove(0);
    monitor.abort();
    assert_eq!(call.headers["content-type"], "application/x-mine");
    let said: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    let message = said["text"].as_str().unwrap();
    assert_eq!(said["n"], 3, "what fails together is told together");
    assert!(message.contains("cannot say \"why\"") && message.contains("2 other databases"), "{message}");
}

/// Who connects and says nothing keeps nobody from asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_visitor_holds_up_nobody() {
    let source = Arc::new(Made::default());
    source.set(&[Health::Live]);
    let server = Server::tcp("127.0.0.1:0", Limits::default(), observer(&source).handler()).await.unwrap();
    let address = server.address().unwrap();
    let _silent: Vec<TcpStream> =
        futures::future::try_join_all((0..20).map(|_| TcpStream::connect(address))).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
