//! Tells a service manager how we are, as `sd_notify(3)` describes it.
//!
//! Ready means that every database has been looked at. Signs of life are given
//! by the tasks that also ship, and only while the noticeboard can be read: a
//! process that hangs gives none, and is started anew. Databases that cannot be
//! followed and replicas that do not answer are told in the status instead,
//! because a restart would not help them.
//!
//! Messages are best effort: a manager that is gone is no reason to stop.

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use crate::config::Environment;
use crate::status::{Board, DatabaseFacts, Health};

/// No status more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// The service manager that started us.
pub(super) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It wants a sign of life at least this often.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names, if any.
    pub(super) fn of(environment: &Environment) -> Option<Self> {
        let address = address(environment.get("NOTIFY_SOCKET")?)?;
        let socket = UnixDatagram::unbound().ok()?;
        // A manager that does not read must not hold us up.
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, address, watchdog: watchdog(environment, std::process::id()) })
    }

    /// Sends a message: lines of `NAME=value`.
    pub(super) fn say(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            tracing::debug!(error = %error, "the service manager was not told");
        }
    }

    /// Says that the end has begun, and how long it may take.
    pub(super) fn stopping(&self, patience: Duration) {
        let patience = patience.saturating_add(MARGIN).as_micros();
        self.say(&format!("STOPPING=1\nSTATUS=uploading the last commits\nEXTEND_TIMEOUT_USEC={patience}"));
    }

    /// Says when everything is ready, then whatever changes, and gives signs of life.
    pub(super) async fn keep_informed(&self, board: &Board) {
        let mut changes = board.watch();
        let mut told = String::new();
        let mut ready = false;
        let beat = self.watchdog.map_or(PAUSE * 60, |longest| longest / 2);
        let mut beats = tokio::time::interval(beat.max(Duration::from_millis(1)));
        loop {
            let facts = board.read();
            if !ready && facts.iter().all(|f| f.health != Health::Starting) {
                ready = true;
                self.say("READY=1");
            }
            let status = status(&facts);
            if status != told {
                self.say(&format!("STATUS={status}"));
                told = status;
            }
            let news = async {
                tokio::time::sleep(if ready { PAUSE } else { PAUSE / 20 }).await;
                // The board outlives this task.
                let _ = changes.changed().await;
            };
            tokio::select! {
                _ = beats.tick() => if self.watchdog.is_some() { self.say("WATCHDOG=1") },
                () = news => {}
            }
        }
    }
}

/// What closing takes beyond the last uploads.
const MARGIN: Duration = Duration::from_secs(10);

/// A path, or a name in Linux's abstract space behind `@`.
fn address(name: &str) -> Option<SocketAddr> {
    match name.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).ok(),
        #[cfg(not(target_os = "linux"))]
        Some(_) => None,
        None => SocketAddr::from_pathname(Path::new(name)).ok(),
    }
}

/// The interval that the manager asks for, if it means this process.
fn watchdog(environment: &Environment, pid: u32) -> Option<Duration> {
    let meant = environment.get("WATCHDOG_PID").is_none_or(|meant| meant.parse() == Ok(pid));
    let micros: u64 = environment.get("WATCHDOG_USEC").filter(|_| meant)?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// How things are, in one line.
fn status(facts: &[DatabaseFacts]) -> String {
    let followed = facts.iter().filter(|f| f.health == Health::Live).count();
    let mut text = format!("following {followed} of {} databases", facts.len());
    let broken = facts.iter().filter_map(|f| match &f.health {
        Health::Broken(reason) | Health::Waiting(reason) => Some((f, None, reason)),
        Health::Starting | Health::Live | Health::Stopped => None,
    });
    let failing = facts.iter().flat_map(|f| f.replicas.iter().map(move |r| (f, r)));
    let failing = failing.filter_map(|(f, r)| Some((f, Some(&r.name), r.error.as_ref()?)));
    let troubles: Vec<_> = broken.chain(failing).collect();
    if let Some((facts, replica, reason)) = troubles.first() {
        let replica = replica.map_or(String::new(), |name| format!(", replica {name}"));
        let reason = reason.lines().next().unwrap_or_default();
        text.push_str(&format!("; {}{replica}: {reason}", facts.path.display()));
        if troubles.len() > 1 {
            text.push_str(&format!(" (and {} more)", troubles.len() - 1));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ReplicaFacts;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { variables, ..Environment::default() }
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let every = |usec: &str, pid: Option<&str>| {
            let mut variables = vec![("WATCHDOG_USEC", usec)];
            variables.extend(pid.map(|pid| ("WATCHDOG_PID", pid)));
            watchdog(&environment(&variables), 42)
        };
        assert_eq!(every("3000000", None), Some(Duration::from_secs(3)));
        assert_eq!(every("3000000", Some("42")), Some(Duration::from_secs(3)));
        for (usec, pid) in [("3000000", Some("43")), ("0", None), ("x", None), ("", None)] {
            assert_eq!(every(usec, pid), None, "{usec} {pid:?}");
        }
    }

    #[test]
    fn nobody_is_told_where_nobody_asked() {
        assert!(Manager::of(&environment(&[])).is_none());
        assert!(Manager::of(&environment(&[("NOTIFY_SOCKET", "")])).is_none());
        assert!(Manager::of(&environment(&[("NOTIFY_SOCKET", "@name")])).is_some());
    }

    #[test]
    fn the_status_names_the_first_trouble() {
        let facts = |path: &str, health, error: Option<&str>| DatabaseFacts {
            path: Path::new(path).into(),
            health,
            replicas: vec![ReplicaFacts { name: "s3".into(), error: error.map(Into::into), ..ReplicaFacts::default() }],
            ..DatabaseFacts::default()
        };
        assert_eq!(status(&[]), "following 0 of 0 databases");
        let mut all = vec![facts("/a", Health::Live, None), facts("/b", Health::Live, Some("refused\nlater"))];
        assert_eq!(status(&all), "following 2 of 2 databases; /b, replica s3: refused");
        all.push(facts("/c", Health::Waiting("it does not exist".into()), None));
        assert_eq!(status(&all), "following 2 of 3 databases; /c: it does not exist (and 1 more)");
    }
}
