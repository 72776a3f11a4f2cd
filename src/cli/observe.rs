//! From the config to the doors of `observe`, for `replicate`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::error::CliError;
use crate::config::{self, Monitoring, PerDatabase, Token};
use crate::health::Objective;
use crate::observe::{Detail, Heartbeat, Observer, Options, Source, Template, Webhook};
use crate::serve::{Limits, Server};
use crate::types::Secret;

/// An address that cannot be had is tried again after this long, as often as it takes.
const RETRY: Duration = Duration::from_secs(5);

/// What was asked for, found to make sense.
pub(super) struct Wanted {
    address: Option<String>,
    options: Options,
    heartbeat: Option<Heartbeat>,
    webhook: Option<Webhook>,
}

/// Lasts until it is dropped.
pub(super) struct Observing {
    /// Who knows how things are.
    pub(super) observer: Arc<Observer>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Looks at everything before anything is started: a wrong configuration is fatal.
pub(super) fn wanted(asked: &Monitoring, program: &str, config: Option<&Path>) -> Result<Wanted, CliError> {
    let webhook = asked.webhook.as_ref().map(|webhook| {
        let body = webhook.body.as_deref().map(Template::new).transpose();
        let body = body.map_err(|reason| CliError::failed(format!("webhook.body: {reason}")))?;
        Ok::<_, CliError>(Webhook { url: webhook.url.clone(), headers: webhook.headers.clone(), body })
    });
    Ok(Wanted {
        address: asked.address.as_ref().map(|address| match &address.host {
            None => format!(":{}", address.port),
            Some(host) if host.contains(':') => format!("[{host}]:{}", address.port),
            Some(host) => format!("{host}:{}", address.port),
        }),
        options: Options {
            program: program.to_owned(),
            config: config.map(|path| path.display().to_string()),
            objective: Objective::new(asked.objective),
            token: asked.token.as_ref().map(token).transpose()?,
            detail: match asked.per_database {
                PerDatabase::Auto => Detail::Auto,
                PerDatabase::Always => Detail::Each,
                PerDatabase::Never => Detail::Together,
            },
        },
        heartbeat: asked
            .heartbeat
            .as_ref()
            .map(|config::Heartbeat { url, interval }| Heartbeat { url: url.clone(), interval: *interval }),
        webhook: webhook.transpose()?,
    })
}

/// What must be shown, also by `check`.
pub(super) fn token(asked: &Token) -> Result<Secret, CliError> {
    match asked {
        Token::Text(token) => Ok(token.clone()),
        Token::File(path) => {
            let cannot = |error| CliError::failed(format!("addr-token-file {}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
            match text.trim() {
                "" => Err(cannot("the file is empty".to_owned())),
                token => Ok(Secret::new(token)),
            }
        }
    }
}

/// Opens the doors. An address that cannot be had is no reason not to replicate.
pub(super) async fn start(wanted: Wanted, source: Arc<dyn Source>) -> Observing {
    let has_token = wanted.options.token.is_some();
    let observer = Observer::new(source, wanted.options);
    let mut tasks = Vec::new();
    if let Some(address) = wanted.address {
        let (tried, first) = oneshot::channel();
        tasks.push(tokio::spawn(serve(address, observer.clone(), has_token, tried)).abort_handle());
        // What is said about it comes before whatever follows.
        let _ = first.await;
    }
    tasks.push(tokio::spawn(observer.clone().monitor(wanted.heartbeat, wanted.webhook)).abort_handle());
    Observing { observer, tasks }
}

/// Serves until it is aborted; an address that another program has is waited for.
async fn serve(address: String, observer: Arc<Observer>, has_token: bool, tried: oneshot::Sender<()>) {
    let mut tried = Some(tried);
    loop {
        match Server::tcp(&address, Limits::default(), observer.handler()).await {
            Ok(server) => {
                let at = server.address().map(|at| format!("http://{at}/metrics")).unwrap_or_default();
                tracing::info!(url = at, "serving metrics on");
                if !has_token && !server.address().is_some_and(|at| at.ip().is_loopback()) {
                    tracing::info!(
                        "metrics and the status page are open to the network: \"addr-token\" would close them"
                    );
                }
                drop(tried);
                // Until whoever holds the task lets go of it, and of the server with it.
                return std::future::pending().await;
            }
            Err(error) if tried.is_some() => {
                let (error, again) = (error.to_string(), RETRY);
                tracing::error!(addr = address, error, retry = ?again, "cannot start metrics server");
            }
            Err(_) => {}
        }
        tried = None;
        tokio::time::sleep(RETRY).await;
    }
}
