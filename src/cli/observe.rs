//! From the config to the doors of `observe`, for `replicate`.

use std::path::Path;
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::error::CliError;
use crate::config::{self, Monitoring, PerDatabase, Token};
use crate::health::Objective;
use crate::observe::{Detail, Heartbeat, Observer, Options, Source, Template, Webhook};
use crate::serve::{Limits, Server};
use crate::types::Secret;

/// What was asked for, found to make sense.
pub(super) struct Wanted {
    address: Option<String>,
    options: Options,
    heartbeat: Option<Heartbeat>,
    webhook: Option<Webhook>,
}

/// Lasts until it is dropped.
pub(super) struct Observing {
    _server: Option<Server>,
    /// Who knows how things are.
    pub(super) observer: Arc<Observer>,
    monitor: AbortHandle,
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.monitor.abort();
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
    let server = match &wanted.address {
        Some(address) => serve(address, &observer, has_token).await,
        None => None,
    };
    let monitor = tokio::spawn(observer.clone().monitor(wanted.heartbeat, wanted.webhook)).abort_handle();
    Observing { _server: server, observer, monitor }
}

async fn serve(address: &str, observer: &Arc<Observer>, has_token: bool) -> Option<Server> {
    match Server::tcp(address, Limits::default(), observer.handler()).await {
        Ok(server) => {
            let at = server.address().map(|at| format!("http://{at}/metrics")).unwrap_or_default();
            tracing::info!(url = at, "serving metrics on");
            if !has_token && !server.address().is_some_and(|at| at.ip().is_loopback()) {
                tracing::info!("metrics and the status page are open to the network: \"addr-token\" would close them");
            }
            Some(server)
        }
        Err(error) => {
            tracing::error!(addr = address, error = error.to_string(), "cannot start metrics server");
            None
        }
    }
}
