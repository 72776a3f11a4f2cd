//! One question to the daemon, over HTTP: at its address, or over its control socket.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::runtime;
use crate::control::{Client, ClientError};
use crate::types::Secret;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Error {
    /// Nobody is there.
    Absent(String),
    /// Somebody is there and says no, or something else than a daemon would.
    Refused(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Absent(error.to_string())
    }
}

/// Longer answers are not the daemon's: ten thousand databases take some ten megabytes.
const LONGEST: u64 = 256 << 20;

/// What `/status` on the control socket says, which is the same as below. Who may open the socket needs no token.
pub(super) fn over_socket(socket: &Path, timeout: Duration) -> Result<Value, Error> {
    let runtime = runtime().map_err(|error| Error::Refused(error.to_string()))?;
    runtime.block_on(Client::new(socket, Some(timeout)).get("/status", &[])).map_err(|error| match error {
        ClientError::Unreachable { reason, .. } => Error::Absent(reason),
        ClientError::Late(_) => Error::Absent(error.to_string()),
        ClientError::Unknown { .. } | ClientError::Refused { .. } | ClientError::Unreadable(_) => {
            Error::Refused(error.to_string())
        }
    })
}

/// What `/api/status` says.
pub(super) fn over_tcp(addr: &str, token: Option<&Secret>, timeout: Duration) -> Result<Value, Error> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(addr, deadline)?;
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {}\r\n", token.reveal()));
    let request = format!("GET /api/status HTTP/1.1\r\nHost: {addr}\r\n{authorization}Connection: close\r\n\r\n");
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut piece)? {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
        if answer.len() as u64 > LONGEST {
            return Err(Error::Refused("the answer does not end".to_owned()));
        }
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or_else(|| Error::Refused("the answer is not HTTP".to_owned()))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    match head.split_whitespace().nth(1) {
        Some("200") => {}
        Some("401") => return Err(Error::Refused("the token is missing or wrong: see -token-file".to_owned())),
        Some("404") => return Err(Error::Refused("it has no /api/status: is that another program?".to_owned())),
        other => return Err(Error::Refused(format!("the answer was {}", other.unwrap_or("not HTTP")))),
    }
    serde_json::from_slice(&answer[end + 4..])
        .map_err(|error| Error::Refused(format!("the answer is not JSON: {error}")))
}

/// The first address of the name that answers.
fn connect(addr: &str, deadline: Instant) -> Result<TcpStream, Error> {
    let addr = if addr.starts_with(':') { format!("localhost{addr}") } else { addr.to_owned() };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addr.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

fn left(deadline: Instant) -> Result<Duration, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Error::Absent("it did not answer in time".to_owned())) } else { Ok(left) }
}
