//! HTTP for the SDK: bodies that say how far they have come, connections that
//! are shared.
//!
//! Always true: while bytes move in either direction, the request that they
//! belong to says so (see `Progress`); a connection that is not made within five
//! seconds is given up; the storages of one runtime share their connections.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::{Error as BodyError, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::runtime;

use super::super::Progress;
use super::failure::Failure;
use super::trust::{self, Trust};

/// Longer than any connection that is going to be made takes.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// S3 closes connections after about this long; using one that is being closed costs a retry.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections kept for later, more than all parts of a few uploads use.
pub(super) const IDLE_CONNECTIONS: usize = 64;

/// Bytes between two signs of life: a slow line (20 kB/s) moves them in a few seconds.
const PIECE: usize = 64 * 1024;

/// The HTTP client of this runtime for servers that are trusted in this way.
pub(super) fn shared(trust: &Trust) -> Result<Http, Failure> {
    type Known = HashMap<(runtime::Id, Trust), Weak<SharedHttpConnector>>;
    // Connections live on the runtime that made them, so no other may use them.
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.retain(|_, connector| connector.strong_count() > 0);
    let place = (runtime::Handle::current().id(), trust.clone());
    if let Some(connector) = known.get(&place).and_then(Weak::upgrade) {
        return Ok(Http(connector));
    }
    let connector = Arc::new(trust::connector(trust)?);
    known.insert(place, Arc::downgrade(&connector));
    Ok(Http(connector))
}

/// Whom to trust, as the environment says.
pub(super) fn trust(skip_verify: bool) -> Trust {
    let bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
    match bundle {
        _ if skip_verify => Trust::Anybody,
        Some(bundle) => Trust::Bundle(bundle),
        None => Trust::System,
    }
}

/// An HTTP client whose requests show signs of life.
#[derive(Clone, Debug)]
pub(super) struct Http(Arc<SharedHttpConnector>);

impl HttpClient for Http {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Http {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let progress = Progress::current();
        let body = request.take_body();
        *request.body_mut() = SdkBody::from_body_1_x(Sent { body, rest: Bytes::new(), progress: progress.clone() });
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            progress.moved();
            let body = answer.take_body();
            *answer.body_mut() = SdkBody::from_body_1_x(Received { body, progress });
            Ok(answer)
        })
    }
}

/// What a body gives when it is asked for more.
type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A body on its way out, in pieces.
struct Sent {
    body: SdkBody,
    /// What it has given and is not yet sent.
    rest: Bytes,
    progress: Progress,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        self.progress.moved();
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, held) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(hint.lower() + held);
        hint
    }
}

/// A body on its way in.
struct Received {
    body: SdkBody,
    progress: Progress,
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.progress.moved();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A long body moves in pieces, each a sign of life, so that a slow line is not taken for a dead one.
    #[tokio::test]
    async fn a_body_says_how_far_it_has_come() {
        let progress = Progress::default();
        let content = Bytes::from(vec![7; 10 * PIECE + 1]);
        let mut sent = Sent { body: SdkBody::from(content.clone()), rest: Bytes::new(), progress: progress.clone() };
        let (mut come, mut signs) = (Vec::new(), Vec::new());
        loop {
            assert_eq!(sent.size_hint().exact(), Some((content.len() - come.len()) as u64));
            let frame = poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await;
            let Some(frame) = frame else { break };
            come.extend_from_slice(&frame.unwrap().into_data().unwrap());
            signs.push(progress.count());
        }
        assert!(come == content && sent.is_end_stream());
        assert_eq!(signs.len(), 11);
        assert!(signs.is_sorted_by(|a, b| a < b), "{signs:?}");
        let body = SdkBody::from(content);
        let mut received = Received { body, progress: progress.clone() };
        let before = progress.count();
        assert!(poll_fn(|context| Pin::new(&mut received).poll_frame(context)).await.is_some());
        assert!(progress.count() > before);
    }
}
