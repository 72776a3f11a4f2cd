//! Asking a daemon, ours or Litestream's, over its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Refusal, line};

/// Bytes of an answer: ten thousand databases with long paths and their troubles.
const LONGEST_ANSWER: usize = 256 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("failed to connect to control socket: {path}: {reason}", path = path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The daemon does not know the request.
    #[error("the daemon does not know {what}: it is another version or another program")]
    Unknown {
        /// The request.
        what: String,
    },
    /// The daemon refuses.
    #[error("{reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// The answer did not come in time.
    #[error("the daemon did not answer within {0:?}")]
    Late(Duration),
    /// The answer makes no sense.
    #[error("the daemon's answer cannot be read: {0}")]
    Unreadable(String),
}

/// One that asks.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Option<Duration>,
}

impl Client {
    /// Over that socket; `timeout` is for connecting and each answer together.
    pub fn new(path: &Path, timeout: Option<Duration>) -> Self {
        Self { path: path.to_owned(), timeout }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn get<A: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<A, ClientError> {
        let encoded = |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        let query: Vec<String> = query.iter().map(encoded).collect();
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        self.ask(Method::GET, &target, Bytes::new()).await
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// There is no answer, or it is a refusal.
    pub async fn post<A: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<A, ClientError> {
        self.ask(Method::POST, path, line(request).into()).await
    }

    async fn ask<A: DeserializeOwned>(&self, method: Method, target: &str, body: Bytes) -> Result<A, ClientError> {
        let exchange = self.exchange(method, target, body);
        let (status, body) = match self.timeout {
            Some(timeout) => {
                tokio::time::timeout(timeout, exchange).await.map_err(|_| ClientError::Late(timeout))??
            }
            None => exchange.await?,
        };
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| ClientError::Unreadable(error.to_string()));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(ClientError::Refused { reason: refusal.error }),
            Err(_) => Err(ClientError::Unknown { what: target.to_owned() }),
        }
    }

    async fn exchange(&self, method: Method, target: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let unreachable = |reason: &dyn std::fmt::Display| ClientError::Unreachable {
            path: self.path.clone(),
            reason: reason.to_string(),
        };
        let stream = UnixStream::connect(&self.path).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Unreadable(error.to_string()))?;
        let unreadable = |error: &dyn std::fmt::Display| ClientError::Unreadable(error.to_string());
        let answer = sender.send_request(request).await.map_err(|error| unreadable(&error))?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await.map_err(|error| unreadable(&error))?;
        Ok((status, body.to_bytes()))
    }
}
