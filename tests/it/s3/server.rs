//! The server: a thread with a runtime of its own on a port of this machine.
//!
//! In front of the store stands what goes wrong on the way to one. Each request
//! is written down as it came, before anything else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::StreamingBlob;
use s3s::host::MultiDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpRequest, HttpResponse, S3Result, s3_error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::store::{Front, Store, Stored};

pub(crate) const BUCKET: &str = "test-bucket";
pub(super) const ACCESS_KEY: &str = "test-access-key";
pub(super) const SECRET_KEY: &str = "test-secret-key";

/// A certificate for this machine, its key, and the authority that signed it, valid for a
/// century. The key guards nothing.
pub(super) const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/s3/tls");

/// A name that the server answers to, if a proxy brings the request.
pub(super) const DOMAIN: &str = "s3.test";

/// What goes wrong. Nothing unless a test says so.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Every n-th request is answered 503 SlowDown and not acted upon.
    pub(crate) slow_down_every: Option<usize>,
    /// Every n-th request is acted upon and answered 500.
    pub(crate) lose_every: Option<usize>,
    /// Requests of this operation are acted upon and answered 500, so many times.
    pub(crate) lose: Option<(&'static str, usize)>,
    /// Requests of this operation get this status and code, so many times.
    pub(crate) answer: Option<(&'static str, u16, &'static str, usize)>,
    /// The body of an answer ends with its connection after so many bytes.
    pub(crate) cut_after: Option<usize>,
    /// The body of an answer stops after so many bytes, so many times.
    pub(crate) stall_after: Option<(usize, usize)>,
    /// Requests of this operation get no answer, so many times.
    pub(crate) ignore: Option<(&'static str, usize)>,
    /// Connections end when so many bytes of a request's body have come, so many times.
    pub(crate) drop_uploads_after: Option<(usize, usize)>,
    /// Each request takes this much longer.
    pub(crate) latency: Duration,
    /// `If-None-Match` is not looked at.
    pub(crate) ignore_conditions: bool,
    /// `Range` is not looked at.
    pub(crate) ignore_ranges: bool,
    /// Bodies that end in a checksum are not understood.
    pub(crate) refuse_trailers: bool,
    /// These operations are not allowed.
    pub(crate) deny: Vec<&'static str>,
    /// The one object that cannot be deleted.
    pub(crate) keep: Option<String>,
    /// The bucket is in this region, and requests for others are sent there.
    pub(crate) region: Option<&'static str>,
    /// Who is let in instead of `ACCESS_KEY`.
    pub(crate) renewed_key: Option<String>,
    /// `HeadObject` does not find this object.
    pub(crate) hide: Option<String>,
    /// Listings come in pages of this size.
    pub(crate) list_page: Option<usize>,
    /// All parts but the last are at least this long.
    pub(crate) least_part: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            slow_down_every: None,
            lose_every: None,
            lose: None,
            answer: None,
            cut_after: None,
            stall_after: None,
            ignore: None,
            drop_uploads_after: None,
            latency: Duration::ZERO,
            ignore_conditions: false,
            ignore_ranges: false,
            refuse_trailers: false,
            deny: Vec::new(),
            keep: None,
            region: None,
            renewed_key: None,
            hide: None,
            list_page: None,
            least_part: 5 << 20,
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// What S3 calls it: `PutObject`.
    pub(crate) operation: &'static str,
    /// Before any decoding.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) store: Store,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Recorded>>,
}

impl Shared {
    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }
}

/// A running server with one empty bucket, `BUCKET`.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::run(None)
    }

    /// With a certificate of an authority of its own, `CA`.
    pub(crate) fn start_encrypted() -> Self {
        let pem = |name| std::fs::read(format!("{TLS}/{name}")).unwrap();
        let certificate = CertificateDer::pem_slice_iter(&pem("cert.pem")).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(&pem("key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(certificate, key).unwrap();
        Self::run(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn run(tls: Option<TlsAcceptor>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let (started, address) = std::sync::mpsc::channel();
        let state = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                started.send(address).unwrap();
                tokio::select! {
                    () = serve(listener, address, tls, state) => {}
                    _ = stopped => {}
                }
            });
        });
        let address: SocketAddr = address.recv().unwrap();
        let endpoint = format!("{scheme}://{address}");
        Self { endpoint, address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Changes what goes wrong from now on.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults());
    }

    /// The requests so far, in order.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The requests of one operation so far.
    pub(crate) fn requests_of(&self, operation: &str) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.operation == operation).collect()
    }

    /// How many requests of each operation there were.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests() {
            *counts.entry(request.operation).or_default() += 1;
        }
        counts
    }

    pub(crate) fn forget_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// All names in the bucket.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.shared.store.keys()
    }

    pub(crate) fn object(&self, key: &str) -> Option<Stored> {
        self.shared.store.object(key)
    }

    /// Stores an object without a request.
    pub(crate) fn insert(&self, key: &str, bytes: &[u8]) {
        self.shared.store.insert(key, bytes);
    }

    /// The names of uploads that are not finished.
    pub(crate) fn uploads(&self) -> Vec<String> {
        self.shared.store.uploads()
    }

    pub(crate) fn age_uploads(&self, by: Duration) {
        self.shared.store.age_uploads(by);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the server has panicked");
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut builder = S3ServiceBuilder::new(Front(Arc::clone(&shared)));
    builder.set_auth(Keys(Arc::clone(&shared)));
    builder.set_host(MultiDomain::new([format!("localhost:{}", address.port()), DOMAIN.into()]).unwrap());
    let service = builder.build();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connection.set_nodelay(true).unwrap();
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        match tls.clone() {
            None => drop(tokio::spawn(attend(connection, service, shared))),
            // Clients that do not trust the certificate hang up here.
            Some(tls) => drop(tokio::spawn(async move {
                if let Ok(connection) = tls.accept(connection).await {
                    attend(connection, service, shared).await;
                }
            })),
        }
    }
}

/// Who is let in: one pair of keys, or what a test has put in its place.
struct Keys(Arc<Shared>);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let renewed = self.0.faults().renewed_key.clone();
        match access_key == renewed.as_deref().unwrap_or(ACCESS_KEY) {
            true => Ok(SecretKey::from(SECRET_KEY)),
            false => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

async fn attend(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: S3Service,
    shared: Arc<Shared>,
) {
    let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        async move { respond(request, service, shared).await }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Clients that hang up are part of the tests.
    let _ = builder.serve_connection(TokioIo::new(connection), answer).await;
}

/// Counts down; whether it was not yet at nothing.
fn counted(times: &mut usize) -> bool {
    let left = *times > 0;
    *times = times.saturating_sub(1);
    left
}

/// Whether a fault that hits an operation so many times hits this one.
fn hit(fault: &mut Option<(&'static str, usize)>, operation: &str) -> bool {
    fault.as_mut().is_some_and(|(which, times)| *which == operation && counted(times))
}

/// The length at which a fault strikes that does so many times.
fn length(fault: &mut Option<(usize, usize)>) -> Option<usize> {
    fault.as_mut().and_then(|(length, times)| counted(times).then_some(*length))
}

async fn respond(
    request: hyper::Request<hyper::body::Incoming>,
    service: S3Service,
    shared: Arc<Shared>,
) -> std::io::Result<HttpResponse> {
    let operation = operation(&request);
    let number = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(Recorded {
            operation,
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
        });
        requests.len()
    };
    let faults = shared.faults().clone();
    sleep(faults.latency).await;
    let every = |n: Option<usize>| n.is_some_and(|n| number.is_multiple_of(n));
    if hit(&mut shared.faults().ignore, operation) {
        return std::future::pending().await;
    }
    if every(faults.slow_down_every) {
        return Ok(error(503, "SlowDown"));
    }
    if let Some((which, status, code, times)) = &mut shared.faults().answer
        && *which == operation
        && counted(times)
    {
        return Ok(error(*status, code));
    }
    if faults.deny.contains(&operation) {
        return Ok(error(403, "AccessDenied"));
    }
    let trailers = request.headers().contains_key("x-amz-trailer");
    if faults.refuse_trailers && trailers {
        return Ok(error(400, "InvalidRequest"));
    }
    if let Some(region) = faults.region {
        let signed = request.headers().get("authorization").map_or("", |value| value.to_str().unwrap());
        if signed.split('/').nth(2) != Some(region) {
            let mut answer = error(301, "PermanentRedirect");
            answer.headers_mut().insert("x-amz-bucket-region", region.parse().unwrap());
            return Ok(answer);
        }
    }
    let is_upload = ["PutObject", "UploadPart"].contains(&operation);
    let dropped = if is_upload { length(&mut shared.faults().drop_uploads_after) } else { None };
    if let Some(after) = dropped {
        let mut body = request.into_body();
        let mut come = 0;
        while come < after
            && let Some(Ok(frame)) =
                std::future::poll_fn(|context| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), context))
                    .await
        {
            come += frame.data_ref().map_or(0, Bytes::len);
        }
        return Err(std::io::Error::other("hung up"));
    }
    let by_host = request.headers().get("host").is_some_and(|host| host.as_bytes().starts_with(BUCKET.as_bytes()));
    if !by_host && request.uri().path().split('/').nth(1) != Some(BUCKET) {
        return Ok(error(404, "NoSuchBucket"));
    }
    let request: HttpRequest = request.map(Body::from);
    let answer = service.call(request).await.map_err(|e| std::io::Error::other(format!("{e:?}")))?;
    let lost = hit(&mut shared.faults().lose, operation);
    if lost || every(faults.lose_every) {
        return Ok(error(500, "InternalError"));
    }
    if operation != "GetObject" || !answer.status().is_success() {
        return Ok(answer);
    }
    let stall_after = length(&mut shared.faults().stall_after);
    Ok(match (faults.cut_after, stall_after) {
        (Some(after), _) => answer.map(|body| shortened(body, after, false)),
        (_, Some(after)) => answer.map(|body| shortened(body, after, true)),
        _ => answer,
    })
}

/// The beginning of a body; then silence, or the end of the connection.
fn shortened(body: Body, after: usize, stall: bool) -> Body {
    let chunks = stream::unfold((body, after), move |(mut body, left)| async move {
        if left == 0 {
            if stall {
                std::future::pending::<()>().await;
            }
            // What came before would otherwise be thrown away with the connection.
            sleep(Duration::from_millis(5)).await;
            return Some((Err(std::io::Error::other("cut")), (body, 0)));
        }
        let mut chunk = body.next().await?.unwrap();
        chunk.truncate(left);
        let left = left - chunk.len();
        Some((Ok(chunk), (body, left)))
    });
    // What is sent is read by one task only, but its type must say that it could be shared.
    Body::from(StreamingBlob::wrap(sync_stream(chunks)))
}

fn sync_stream<T: Send + 'static>(
    inner: impl futures::Stream<Item = T> + Send + 'static,
) -> impl futures::Stream<Item = T> + Send + Sync + 'static {
    let inner = Mutex::new(inner.boxed());
    stream::poll_fn(move |context| inner.lock().unwrap().poll_next_unpin(context))
}

fn error(status: u16, code: &str) -> HttpResponse {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let mut answer = HttpResponse::new(Body::from(Bytes::from(text)));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    answer
}

/// What S3 calls a request.
fn operation<T>(request: &hyper::Request<T>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let copies = request.headers().contains_key("x-amz-copy-source");
    let method = request.method().as_str();
    match method {
        "GET" if has("list-type") => "ListObjectsV2",
        "GET" if has("uploads") => "ListMultipartUploads",
        "GET" if has("location") => "GetBucketLocation",
        "GET" => "GetObject",
        "HEAD" => "HeadObject",
        "PUT" if has("partNumber") && copies => "UploadPartCopy",
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" if copies => "CopyObject",
        "PUT" => "PutObject",
        "POST" if has("delete") => "DeleteObjects",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        _ => "Other",
    }
}
