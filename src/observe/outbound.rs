//! One HTTP request to somebody who wants to be told.

use std::time::Duration;

use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;

use crate::types::Secret;

/// As in Litestream's heartbeat.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes requests; one at a time is all that is needed.
#[derive(Clone, Debug)]
pub(super) struct Outbound(SharedHttpConnector);

impl Outbound {
    pub(super) fn new() -> Result<Self, String> {
        let certificates = rustls_native_certs::load_native_certs().certs;
        // A machine without any is enough for servers without encryption.
        let store = if certificates.is_empty() { tls::TrustStore::empty() } else { tls::TrustStore::default() };
        let context = tls::TlsContext::builder().with_trust_store(store).build();
        let context = context.map_err(|error| format!("the CA certificates are of no use: {error}"))?;
        let connector = Connector::builder()
            .connector_settings(HttpConnectorSettings::builder().connect_timeout(PATIENCE).build())
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(tls::Provider::rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(context)
            .build();
        Ok(Self(SharedHttpConnector::new(connector)))
    }

    /// The address is not in the error: it often is the secret.
    pub(super) async fn call(
        &self,
        method: &str,
        url: &Secret,
        headers: &[(String, Secret)],
        body: Option<String>,
    ) -> Result<(), String> {
        let mut request = HttpRequest::new(body.map_or_else(SdkBody::empty, SdkBody::from));
        request.set_method(method).map_err(|_| "that is no method".to_owned())?;
        request.set_uri(url.reveal()).map_err(|_| "the address cannot be used".to_owned())?;
        for (name, value) in headers {
            let (name, value) = (name.to_ascii_lowercase(), value.reveal().to_owned());
            let inserted = request.headers_mut().try_insert(name.clone(), value);
            inserted.map_err(|_| format!("the value of header {name} cannot be sent"))?;
        }
        let answer = tokio::time::timeout(PATIENCE, self.0.call(request)).await;
        let answer = answer.map_err(|_| format!("no answer within {} seconds", PATIENCE.as_secs()))?;
        let answer = answer.map_err(|error| format!("no answer: {}", reason(&error)))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the answer was {}", status.as_u16())) }
    }
}

/// The innermost cause, which says what the operating system said.
fn reason(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
