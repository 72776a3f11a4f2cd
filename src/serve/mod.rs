//! A small HTTP/1.1 server: requests in, answers out, over TCP or a Unix socket.
//! Which answers, others decide: a handler is a function from request to answer.
//!
//! Always true: nobody who connects can make it use more than a bounded amount
//! of memory, or keep it from answering others for long: connections, headers,
//! bodies and times are limited. A handler that panics costs its connection only.

mod unix;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use unix::Occupied;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, as it was sent.
    pub path: String,
    /// What stands behind the question mark, as it was sent; may be empty.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// The value of a query parameter, decoded; the first of several.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.map(|(key, value)| (decoded(key), decoded(value))).find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// More headers than the type of the body.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// An answer with a body.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), content_type, body: body.into() }
    }

    /// A line of plain text.
    pub fn text(status: StatusCode, line: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{line}\n"))
    }

    /// JSON, which the caller has written.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// There is nothing at that path.
    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found")
    }

    /// There is something at that path, but not for this method.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed").with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// With another header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// From request to answer.
pub type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What one server may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more have to wait.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// From the connection, or the last answer, to the end of a request's headers, and as long again for its body.
    pub request: Duration,
    /// From the connection to the end of its last answer: who reads slowly must come back.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, body: 64 * 1024, request: Duration::from_secs(10), connection: Duration::from_secs(60) }
    }
}

/// Bytes of a request's line and headers.
const HEADERS: usize = 16 * 1024;
/// Headers of a request.
const HEADER_COUNT: usize = 64;
/// The pause after a connection could not be accepted, for want of file handles for instance.
const PAUSE: Duration = Duration::from_millis(100);

/// A server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    task: AbortHandle,
    address: Option<SocketAddr>,
    /// Removes the socket's file.
    _file: Option<Occupied>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves on a TCP address: `host:port`, or `:port` for all interfaces.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn tcp(address: &str, limits: Limits, handler: Handler) -> io::Result<Self> {
        let listener = match address.strip_prefix(':') {
            // Both families where there are both, as Go does.
            Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind(format!("0.0.0.0:{port}")).await?,
            },
            None => TcpListener::bind(address).await?,
        };
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            run(limits, handler, |context| listener.poll_accept(context).map_ok(|(stream, _)| stream)).await;
        });
        Ok(Self { task: task.abort_handle(), address: Some(address), _file: None })
    }

    /// Serves on a Unix socket with these permissions.
    ///
    /// # Errors
    /// The path is taken by something else, or cannot be had.
    pub async fn unix(path: &Path, mode: u32, limits: Limits, handler: Handler) -> io::Result<Self> {
        let (listener, file) = unix::bind(path, mode)?;
        let listener = UnixListener::from_std(listener)?;
        let task = tokio::spawn(async move {
            run(limits, handler, |context| listener.poll_accept(context).map_ok(|(stream, _)| stream)).await;
        });
        Ok(Self { task: task.abort_handle(), address: None, _file: Some(file) })
    }

    /// Where it listens, if that is TCP: the port that was had for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

async fn run<S>(limits: Limits, handler: Handler, accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let free = Arc::new(Semaphore::new(limits.connections));
    // Its connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        match std::future::poll_fn(&accept).await {
            Ok(stream) => {
                let handler = handler.clone();
                connections.spawn(async move {
                    let _ = tokio::time::timeout(limits.connection, connection(stream, limits, handler)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(error = error.to_string(), "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection<S>(stream: S, limits: Limits, handler: Handler)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(response(answer(request, limits, handler).await)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(HEADERS)
        .max_headers(HEADER_COUNT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(error = error.to_string(), "a connection ended early");
    }
}

async fn answer(request: hyper::Request<Incoming>, limits: Limits, handler: Handler) -> Answer {
    let (Parts { method, uri, headers, .. }, body) = request.into_parts();
    let body = match tokio::time::timeout(limits.request, Limited::new(body, limits.body).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Answer::text(StatusCode::PAYLOAD_TOO_LARGE, "request body too large");
        }
        Ok(Err(_)) => return Answer::text(StatusCode::BAD_REQUEST, "the request body cannot be read"),
        Err(_) => return Answer::text(StatusCode::REQUEST_TIMEOUT, "the request body did not come in time"),
    };
    let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
    handler(Request { method, path, query, headers, body }).await
}

fn response(answer: Answer) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response.headers_mut().extend(answer.headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Answers with what it was asked.
    fn echo() -> Handler {
        Arc::new(|request: Request| {
            Box::pin(async move {
                match request.path.as_str() {
                    "/panic" => panic!("as this test wants it"),
                    "/slow" => std::future::pending().await,
                    path => {
                        let body = String::from_utf8_lossy(&request.body).into_owned();
                        Answer::text(
                            StatusCode::OK,
                            &format!("{} {path} {:?} {body}", request.method, request.parameter("a")),
                        )
                    }
                }
            })
        })
    }

    async fn server(limits: Limits) -> Server {
        Server::tcp("127.0.0.1:0", limits, echo()).await.unwrap()
    }

    async fn say(server: &Server, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(server.address().unwrap()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Everything until the other side closes.
    async fn hear(mut stream: TcpStream) -> String {
        let mut heard = Vec::new();
        // That the other side did not read all of it is no failure here.
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut heard)).await.unwrap();
        String::from_utf8(heard).unwrap()
    }

    const CLOSE: &str = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";

    #[tokio::test]
    async fn a_request_reaches_the_handler_whole() {
        let server = server(Limits::default()).await;
        let heard =
            hear(say(&server, &format!("POST /x?b=1&a=%2Ftmp%2Fa+b {CLOSE}Content-Length: 3\r\n\r\nabc")).await).await;
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
        assert!(heard.ends_with("POST /x Some(\"/tmp/a b\") abc\n"), "{heard}");
    }

    #[tokio::test]
    async fn a_large_body_is_refused() {
        let server = server(Limits { body: 10, ..Limits::default() }).await;
        let heard = hear(say(&server, &format!("POST / {CLOSE}Content-Length: 11\r\n\r\nabcdefghijk")).await).await;
        assert!(heard.starts_with("HTTP/1.1 413 "), "{heard}");
    }

    #[tokio::test]
    async fn endless_headers_are_refused() {
        let server = server(Limits::default()).await;
        let many = "x: y\r\n".repeat(HEADER_COUNT + 1);
        let heard = hear(say(&server, &format!("GET / HTTP/1.1\r\n{many}\r\n")).await).await;
        assert!(heard.starts_with("HTTP/1.1 431 "), "{heard}");
        let long = "y".repeat(HEADERS + 10);
        let heard = hear(say(&server, &format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")).await).await;
        assert!(!heard.contains(" 200 "), "{heard}");
    }

    #[tokio::test]
    async fn who_says_nothing_or_half_a_request_is_sent_away() {
        let server = server(Limits { request: Duration::from_millis(50), ..Limits::default() }).await;
        for beginning in ["", "GET / HT"] {
            hear(say(&server, beginning).await).await;
        }
        let heard = hear(say(&server, &format!("POST / {CLOSE}Content-Length: 3\r\n\r\na")).await).await;
        assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    }

    #[tokio::test]
    async fn a_panic_and_an_endless_answer_cost_one_connection_each() {
        let limits = Limits { connections: 1, connection: Duration::from_millis(200), ..Limits::default() };
        let server = server(limits).await;
        for path in ["/panic", "/slow"] {
            assert_eq!(hear(say(&server, &format!("GET {path} {CLOSE}\r\n")).await).await, "");
        }
        let heard = hear(say(&server, &format!("GET /fine {CLOSE}\r\n")).await).await;
        assert!(heard.ends_with("GET /fine None \n"), "{heard}");
    }

    #[tokio::test]
    async fn it_ends_with_its_connections() {
        let server = server(Limits::default()).await;
        let address = server.address().unwrap();
        let waiting = say(&server, &format!("GET /slow {CLOSE}\r\n")).await;
        drop(server);
        assert_eq!(hear(waiting).await, "");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
