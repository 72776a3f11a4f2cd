//! Commands that ask the running daemon over its control socket: ours, or
//! Litestream's, which speak the same language.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::error::CliError;
use super::options::{Ask, Order};
use super::render;
use super::settings::Context;
use crate::config::{DEFAULT_SOCKET, absolute, duration};
use crate::control::{
    Changed, Client, ClientError, DatabaseRequest, Info, List, RegisterRequest, Reloaded, SyncRequest, Synced,
    WaitRequest,
};
use crate::types::Timestamp;

/// The daemon says why something took too long; it must get to say it.
const GRACE: Duration = Duration::from_secs(2);

/// Asks and prints the answer.
pub(crate) fn run(order: &Order, ask: &Ask, context: &Context) -> Result<(), CliError> {
    let socket = socket(ask, context)?;
    if let Order::Unregister { database, dry_run: true } = order {
        return render::print(&preview(database, &socket, ask));
    }
    let client = Client::new(&socket, ask.timeout.map(|timeout| timeout + GRACE));
    let desk = Desk { client, socket, ask, context };
    render::print(&super::runtime()?.block_on(desk.ask(order))?)
}

/// Where the daemon listens: the flag, else the config if it says so, else the usual place.
pub(super) fn socket(ask: &Ask, context: &Context) -> Result<PathBuf, CliError> {
    let environment = context.environment()?;
    if let Some(socket) = &ask.socket {
        return Ok(absolute(socket, &environment));
    }
    match context.config(&ask.config) {
        Ok(config) => {
            if let Some(socket) = config.global.socket {
                return Ok(socket.path);
            }
        }
        // One that was asked for must be there; the default one need not.
        Err(error) if ask.config.path.is_some() => return Err(error),
        Err(_) => {}
    }
    Ok(PathBuf::from(DEFAULT_SOCKET))
}

struct Desk<'a> {
    client: Client,
    socket: PathBuf,
    ask: &'a Ask,
    context: &'a Context,
}

impl Desk<'_> {
    async fn ask(&self, order: &Order) -> Result<String, CliError> {
        let timeout = self.ask.timeout.map(whole_seconds);
        match order {
            Order::Start(database) => {
                let request = DatabaseRequest { path: self.path(database)?, timeout };
                self.changed("start", "running", self.client.post("/start", &request).await)
            }
            Order::Stop(database) => {
                let request = DatabaseRequest { path: self.path(database)?, timeout };
                self.changed("stop", "stopped", self.client.post("/stop", &request).await)
            }
            Order::Sync { database, wait } => {
                let request = SyncRequest { path: self.path(database)?, wait: *wait, timeout };
                let begun = Instant::now();
                let answer = self.client.post("/sync", &request).await;
                self.synced("sync", *wait, begun, answer)
            }
            Order::Wait { database, txid } => {
                let request = WaitRequest { path: self.path(database)?, txid: *txid, timeout };
                let begun = Instant::now();
                let answer = self.client.post("/wait", &request).await;
                self.synced("wait", true, begun, answer)
            }
            Order::Register { database, replica } => {
                let request = RegisterRequest { path: self.path(database)?, replica_url: replica.clone() };
                let answer: Changed = self.client.post("/register", &request).await.map_err(refused("register"))?;
                let replica = crate::config::shown_url(replica);
                // The original's text has a space there.
                let status = if self.ask.json { answer.status } else { answer.status.replace('_', " ") };
                self.show(
                    &[("status", json!(status)), ("db_path", json!(answer.path)), ("replica", json!(replica))],
                    true,
                )
            }
            Order::Unregister { database, .. } => {
                let request = DatabaseRequest { path: self.path(database)?, timeout };
                let answer: Changed = self.client.post("/unregister", &request).await.map_err(refused("unregister"))?;
                let txid = answer.txid.unwrap_or(0);
                let rows =
                    [("status", json!(answer.status)), ("db_path", json!(answer.path)), ("final_txid", json!(txid))];
                self.show(&rows, true)
            }
            Order::Reload => {
                let answer = self.client.post("/reload", &json!({})).await.map_err(refused("reload"))?;
                self.reloaded(&answer)
            }
            Order::List => self.list(&self.client.get("/list", &[]).await.map_err(refused("list"))?),
            Order::Info => self.info(&self.client.get("/info", &[]).await.map_err(refused("info"))?),
        }
    }

    /// The daemon may have another working directory.
    fn path(&self, database: &Path) -> Result<String, CliError> {
        let path = crate::config::database_path(&database.to_string_lossy(), &self.context.environment()?);
        Ok(path.to_string_lossy().into_owned())
    }

    fn changed(&self, command: &str, state: &str, answer: Result<Changed, ClientError>) -> Result<String, CliError> {
        let Changed { status, path, txid } = answer.map_err(refused(command))?;
        let txid = txid.unwrap_or(0);
        let rows =
            [("status", json!(status)), ("db_path", json!(path)), ("state", json!(state)), ("txid", json!(txid))];
        self.show(&rows, true)
    }

    fn synced(
        &self,
        command: &str,
        replicated: bool,
        begun: Instant,
        answer: Result<Synced, ClientError>,
    ) -> Result<String, CliError> {
        let Synced { path, txid, replicated_txid, .. } = answer.map_err(refused(command))?;
        let mut rows = vec![("db_path", json!(path)), ("txid", json!(txid))];
        if replicated {
            rows.push(("replica_txid", json!(replicated_txid)));
        }
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        rows.push(("duration_ms", json!(millis)));
        self.show(&rows, false)
    }

    /// One line per value, or one JSON object.
    fn show(&self, rows: &[(&str, serde_json::Value)], with_socket: bool) -> Result<String, CliError> {
        let socket = ("socket", json!(self.socket));
        let rows = rows.iter().chain(with_socket.then_some(&socket));
        if self.ask.json {
            let object: serde_json::Map<String, serde_json::Value> =
                rows.map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            return render::json(&object);
        }
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Ok(rows.map(|(key, value)| format!("{key}: {}\n", text(value))).collect())
    }

    fn reloaded(&self, answer: &Reloaded) -> Result<String, CliError> {
        if self.ask.json {
            return render::json(answer);
        }
        let mut text = String::new();
        for (what, paths) in [("added", &answer.added), ("removed", &answer.removed), ("changed", &answer.changed)] {
            paths.iter().for_each(|path| text.push_str(&format!("{what}: {path}\n")));
        }
        let _ = writeln!(text, "unchanged: {}", answer.unchanged);
        answer.remarks.iter().for_each(|remark| text.push_str(&format!("warning: {remark}\n")));
        Ok(text)
    }

    fn list(&self, answer: &List) -> Result<String, CliError> {
        if self.ask.json {
            return render::json(answer);
        }
        if answer.databases.is_empty() {
            return Ok("No databases configured\n".to_owned());
        }
        let one = |database: &crate::control::Listed| {
            let last = database.last_sync_at.as_deref().map_or_else(|| "never".to_owned(), to_seconds);
            format!("{} [{}] (last sync: {last})\n", database.path, database.status)
        };
        Ok(answer.databases.iter().map(one).collect())
    }

    fn info(&self, answer: &Info) -> Result<String, CliError> {
        if self.ask.json {
            return render::json(answer);
        }
        let Info { version, pid, uptime_seconds, started_at, database_count } = answer;
        let uptime = duration::show(i64::try_from(*uptime_seconds).unwrap_or(0).saturating_mul(1_000_000_000));
        Ok(format!(
            "Litestream {version}\n  PID:        {pid}\n  Uptime:     {uptime}\n  Started at: {}\n  Databases:  {database_count}\n",
            to_seconds(started_at)
        ))
    }
}

/// A time as people read it; what cannot be read is left as it is.
fn to_seconds(time: &str) -> String {
    let parsed = time.parse::<jiff::Timestamp>();
    parsed.map_or_else(|_| time.to_owned(), |time| render::seconds(Timestamp::from_millis(time.as_millisecond())))
}

fn whole_seconds(timeout: Duration) -> u64 {
    timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)
}

fn refused(command: &str) -> impl Fn(ClientError) -> CliError {
    move |error| match error {
        ClientError::Refused { reason } => CliError::failed(format!("{command} failed: {reason}")),
        other => CliError::failed(other),
    }
}

fn preview(database: &Path, socket: &Path, ask: &Ask) -> String {
    let timeout = ask
        .timeout
        .map_or_else(String::new, |timeout| duration::show(i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)));
    format!(
        "Dry run: unregister request preview\n  database: {}\n  socket: {}\n  \
         replicas: daemon-managed replica for this database\n  \
         final sync: daemon close will sync the database and replica before the command completes\n  \
         timeout: {timeout}\nNo unregister request was sent.\n",
        database.display(),
        socket.display()
    )
}
