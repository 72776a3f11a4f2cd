//! The control socket's answers: Litestream 0.5's routes, and a few of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fleet::{Fleet, RegisterError, only_here};
use crate::causes::with_causes;
use crate::config::Socket;
use crate::control::{
    Changed as Done, DatabaseRequest, Info, List, Listed, Position, Refusal, RegisterRequest, SyncRequest, Synced,
    WaitRequest, line,
};
use crate::daemon::{Changed, SyncError, Unconfirmed};
use crate::observe::Observer;
use crate::serve::{Answer, Handler, Limits, Request, Server};
use crate::status::{DatabaseFacts, DatabaseId, Health};
use crate::types::Timestamp;

/// Whoever may connect is trusted: the limits are for accidents. Waiting for a confirmation may take hours.
const LIMITS: Limits = Limits {
    connections: 256,
    body: 1 << 20,
    request: Duration::from_secs(60),
    connection: Duration::from_secs(24 * 60 * 60),
};
/// How long something takes at most, unless the request says so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves the socket until that is dropped. Without it, the daemon goes on all the same.
pub(super) async fn serve(fleet: &Arc<Fleet>, observer: &Arc<Observer>, socket: &Socket) -> Option<Server> {
    let desk = Arc::new(Desk {
        fleet: fleet.clone(),
        observer: observer.clone(),
        started: (Instant::now(), SystemTime::now().into()),
    });
    let handler: Handler = Arc::new(move |request| {
        let desk = desk.clone();
        async move { desk.answer(request).await.unwrap_or_else(Refused::answer) }.boxed()
    });
    let path = socket.path.display().to_string();
    match Server::unix(&socket.path, socket.mode, LIMITS, handler).await {
        Ok(server) => {
            tracing::info!(path, "control socket listening");
            Some(server)
        }
        Err(error) => {
            tracing::warn!(path, error = error.to_string(), "failed to start control server");
            None
        }
    }
}

struct Desk {
    fleet: Arc<Fleet>,
    observer: Arc<Observer>,
    started: (Instant, Timestamp),
}

/// An answer that is a refusal.
struct Refused {
    status: StatusCode,
    error: String,
    details: Option<Value>,
}

impl Refused {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), details: None }
    }

    fn failed(error: impl std::error::Error + 'static) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, with_causes(&error))
    }

    fn unknown(path: &Path) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("database not found: {}", path.display()))
    }

    /// As with the original, a stop whose last upload failed is told as a failure, although the database is stopped.
    fn if_only_here(state: &str, unconfirmed: &[Unconfirmed]) -> Result<(), Self> {
        let Some(first) = unconfirmed.first() else { return Ok(()) };
        let text = format!("the database is {state}, but {}", only_here(first));
        Err(Self::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }

    fn answer(self) -> Answer {
        Answer::json(self.status, line(&Refusal { error: self.error, details: self.details }))
    }
}

/// The routes and their methods.
const ROUTES: [(&str, &str); 12] = [
    ("/start", "POST"),
    ("/stop", "POST"),
    ("/sync", "POST"),
    ("/wait", "POST"),
    ("/register", "POST"),
    ("/unregister", "POST"),
    ("/reload", "POST"),
    ("/txid", "GET, HEAD"),
    ("/list", "GET, HEAD"),
    ("/info", "GET, HEAD"),
    ("/status", "GET, HEAD"),
    ("/debug/sync-status", "GET, HEAD"),
];

impl Desk {
    async fn answer(&self, request: Request) -> Result<Answer, Refused> {
        let Some((route, methods)) = ROUTES.into_iter().find(|(route, _)| *route == request.path) else {
            return Ok(Answer::not_found());
        };
        let method = if request.method == Method::HEAD { "GET" } else { request.method.as_str() };
        if !methods.starts_with(method) {
            return Ok(Answer::method_not_allowed(methods));
        }
        match route {
            "/start" => self.start(&read(&request)?).await.map(fine),
            "/stop" => self.stop(&read(&request)?).await.map(fine),
            "/sync" => self.sync(&read(&request)?).await.map(fine),
            "/wait" => self.wait(&read(&request)?).await.map(fine),
            "/register" => self.register(&read(&request)?).await.map(fine),
            "/unregister" => self.unregister(&read(&request)?).await.map(fine),
            "/reload" => self
                .fleet
                .reload()
                .await
                .map(fine)
                .map_err(|error| Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
            "/txid" => self.position(&request).map(fine),
            "/list" => Ok(fine(self.list())),
            "/info" => Ok(fine(self.info())),
            "/status" => Ok(fine(self.observer.status())),
            _ => self.diagnostics(&request).map(fine),
        }
    }

    async fn start(&self, request: &DatabaseRequest) -> Result<Done, Refused> {
        let (path, id) = self.database(&request.path)?;
        let changed = self.fleet.daemon.resume(id, patience(request.timeout)).await;
        let status = match changed.map_err(Refused::failed)? {
            Changed::Done(_) => "started",
            Changed::Already => "already_running",
        };
        Ok(done(status, &path, self.txid(id)))
    }

    async fn stop(&self, request: &DatabaseRequest) -> Result<Done, Refused> {
        let (path, id) = self.database(&request.path)?;
        let changed = self.fleet.daemon.pause(id, patience(request.timeout)).await;
        let status = match changed.map_err(Refused::failed)? {
            Changed::Done(unconfirmed) => {
                Refused::if_only_here("stopped", &unconfirmed)?;
                "stopped"
            }
            Changed::Already => "already_stopped",
        };
        Ok(done(status, &path, self.txid(id)))
    }

    async fn sync(&self, request: &SyncRequest) -> Result<Synced, Refused> {
        let (path, id) = self.database(&request.path)?;
        let (begun, patience) = (Instant::now(), patience(request.timeout));
        let refused = |error| sync_refused(error, &path);
        let synced = self.fleet.daemon.capture_now(id, patience).await.map_err(refused)?;
        if request.wait {
            self.fleet.daemon.ship_now(id);
            let left = patience.saturating_sub(begun.elapsed());
            self.fleet.daemon.confirmed(id, synced.captured, left).await.map_err(refused)?;
        }
        let status = match (synced.changed(), request.wait) {
            (false, _) => "no_change",
            (true, true) => "synced",
            (true, false) => "synced_local",
        };
        Ok(self.synced(status, &path, id))
    }

    /// Rides the normal cadence: nothing is uploaded any sooner for this.
    async fn wait(&self, request: &WaitRequest) -> Result<Synced, Refused> {
        let (path, id) = self.database(&request.path)?;
        let (begun, patience) = (Instant::now(), patience(request.timeout));
        let refused = |error| sync_refused(error, &path);
        let daemon = &self.fleet.daemon;
        let captured = match request.txid {
            // What is committed now must be known to be waited for.
            None => daemon.capture_now(id, patience).await.map_err(refused)?.captured,
            Some(txid) => {
                // A number that was told for what was captured up to now is confirmed when all of that is. A later one
                // has to be reached first.
                let reached = |facts: &DatabaseFacts| Ok(facts.captured.is_some() && local_txid(facts) >= txid);
                daemon.wait_for(id, patience, reached).await.map_err(refused)?;
                let captured = daemon.board().read_one(id).and_then(|facts| facts.captured);
                captured.ok_or_else(|| Refused::unknown(&path))?
            }
        };
        let left = patience.saturating_sub(begun.elapsed());
        daemon.confirmed(id, captured, left).await.map_err(refused)?;
        Ok(self.synced("confirmed", &path, id))
    }

    async fn register(&self, request: &RegisterRequest) -> Result<Done, Refused> {
        let path = self.path(&request.path)?;
        if request.replica_url.is_empty() {
            return Err(Refused::new(StatusCode::BAD_REQUEST, "replica_url required"));
        }
        let registered = self.fleet.register(&path, &request.replica_url).await.map_err(|error| match error {
            RegisterError::Url(_) => Refused::new(StatusCode::BAD_REQUEST, error.to_string()),
            RegisterError::Other(_) => Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        })?;
        let status = if registered { "registered" } else { "already_registered" };
        Ok(Done { txid: None, ..done(status, &path, 0) })
    }

    async fn unregister(&self, request: &DatabaseRequest) -> Result<Done, Refused> {
        let path = self.path(&request.path)?;
        let outcome = self.fleet.unregister(&path, patience(request.timeout)).await;
        let outcome = outcome.map_err(|error| {
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to unregister database: {error}"))
        });
        Ok(match outcome? {
            Some((facts, unconfirmed)) => {
                Refused::if_only_here("unregistered", &unconfirmed)?;
                done("unregistered", &path, local_txid(&facts))
            }
            None => done("already_unregistered", &path, 0),
        })
    }

    fn position(&self, request: &Request) -> Result<Position, Refused> {
        let path = self.path(&request.parameter("path").unwrap_or_default())?;
        let id = self.fleet.daemon.find(&path);
        let id = id.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "database not found"))?;
        Ok(Position { txid: self.txid(id) })
    }

    fn list(&self) -> List {
        let one = |facts: DatabaseFacts| Listed {
            path: facts.path.display().to_string(),
            status: if facts.health == Health::Stopped { "stopped" } else { "replicating" }.to_owned(),
            last_sync_at: last_sync(&facts).map(|time| time.to_string()),
        };
        List { databases: self.fleet.daemon.board().read().into_iter().map(one).collect() }
    }

    fn info(&self) -> Info {
        let (began, started_at) = self.started;
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: began.elapsed().as_secs(),
            started_at: started_at.to_string(),
            database_count: self.fleet.daemon.databases().len(),
        }
    }

    fn diagnostics(&self, request: &Request) -> Result<Value, Refused> {
        let one = |facts: &DatabaseFacts| {
            let mut shown = json!({"path": *facts.path, "active": false, "txid": local_txid(facts)});
            let error = match &facts.health {
                Health::Broken(reason) | Health::Waiting(reason) => Some(reason.clone()),
                Health::Starting | Health::Live | Health::Stopped => {
                    facts.replicas.iter().find_map(|replica| replica.error.clone())
                }
            };
            if let Some(error) = error {
                shown["error"] = Value::String(error);
            }
            shown
        };
        let facts = match request.parameter("path").filter(|path| !path.is_empty()) {
            None => self.fleet.daemon.board().read(),
            Some(path) => {
                let (path, id) = self.database(&path)?;
                vec![self.fleet.daemon.board().read_one(id).ok_or_else(|| Refused::unknown(&path))?]
            }
        };
        Ok(json!({"databases": facts.iter().map(one).collect::<Vec<_>>()}))
    }

    fn path(&self, path: &str) -> Result<PathBuf, Refused> {
        match path {
            "" => Err(Refused::new(StatusCode::BAD_REQUEST, "path required")),
            path => Ok(self.fleet.path(path)),
        }
    }

    fn database(&self, path: &str) -> Result<(PathBuf, DatabaseId), Refused> {
        let path = self.path(path)?;
        let id = self.fleet.daemon.find(&path).ok_or_else(|| Refused::unknown(&path))?;
        Ok((path, id))
    }

    fn txid(&self, id: DatabaseId) -> u64 {
        self.fleet.daemon.board().read_one(id).as_ref().map_or(0, local_txid)
    }

    fn synced(&self, status: &str, path: &Path, id: DatabaseId) -> Synced {
        let facts = self.fleet.daemon.board().read_one(id).unwrap_or_default();
        let replicated_txid = primary(&facts).and_then(|replica| replica.txid).map_or(0, |txid| txid.get());
        let (status, path) = (status.to_owned(), path.display().to_string());
        Synced { status, path, txid: local_txid(&facts), replicated_txid }
    }
}

fn fine(answer: impl Serialize) -> Answer {
    Answer::json(StatusCode::OK, line(&answer))
}

fn read<R: DeserializeOwned>(request: &Request) -> Result<R, Refused> {
    serde_json::from_slice(&request.body).map_err(|error| Refused {
        status: StatusCode::BAD_REQUEST,
        error: "invalid request body".to_owned(),
        details: Some(Value::String(error.to_string())),
    })
}

fn patience(seconds: Option<u64>) -> Duration {
    // None is not asked for by leaving it out, nor by 0.
    seconds.filter(|seconds| *seconds > 0).map_or(PATIENCE, |seconds| Duration::from_secs(seconds.min(LONGEST)))
}

/// Ten years in seconds; clocks cannot count to the end of time.
const LONGEST: u64 = 10 * 365 * 24 * 60 * 60;

fn done(status: &str, path: &Path, txid: u64) -> Done {
    Done { status: status.to_owned(), path: path.display().to_string(), txid: Some(txid) }
}

fn sync_refused(error: SyncError, path: &Path) -> Refused {
    match error {
        SyncError::NotThere => Refused::unknown(path),
        SyncError::Stopped => Refused::new(StatusCode::CONFLICT, format!("database not open: {}", path.display())),
        SyncError::Capture { reason } => {
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, format!("sync database: {reason}"))
        }
        error @ SyncError::Fenced { .. } => Refused::failed(error),
        error @ SyncError::Late { .. } => Refused::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
    }
}

/// The replica whose transactions are meant where only one number is told.
fn primary(facts: &DatabaseFacts) -> Option<&crate::status::ReplicaFacts> {
    facts.replicas.iter().find(|replica| !replica.fenced).or(facts.replicas.first())
}

/// The transaction that everything captured up to now has on the replica, or will have: what waits goes up as the next
/// one.
fn local_txid(facts: &DatabaseFacts) -> u64 {
    let Some(replica) = primary(facts) else { return 0 };
    let confirmed = replica.txid.map_or(0, |txid| txid.get());
    let waits = facts.captured.is_some_and(|captured| replica.batch.is_some_and(|has| has < captured.batch));
    confirmed + u64::from(waits)
}

/// When something arrived last on the replica that waits longest.
fn last_sync(facts: &DatabaseFacts) -> Option<Timestamp> {
    facts.replicas.iter().map(|replica| replica.advanced).min().flatten()
}
