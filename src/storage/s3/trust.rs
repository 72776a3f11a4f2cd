//! Which servers are believed to be who they say they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::failure::Failure;
use super::transport::{CONNECT_TIMEOUT, IDLE_CONNECTIONS, IDLE_TIMEOUT};

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// Those that the system vouches for, or the file in `SSL_CERT_FILE`.
    System,
    /// Those that the authorities in this file vouch for, and no others.
    Bundle(PathBuf),
    /// Whoever answers.
    Anybody,
}

/// What makes connections.
pub(super) fn connector(trust: &Trust) -> Result<SharedHttpConnector, Failure> {
    let store = match trust {
        Trust::Anybody => return Ok(SharedHttpConnector::new(Unverified::new()?)),
        Trust::Bundle(path) => tls::TrustStore::empty().with_pem_certificate(bundle(path)?),
        // A machine without any is enough for servers without encryption.
        Trust::System if rustls_native_certs::load_native_certs().certs.is_empty() => {
            tracing::warn!("the system has no CA certificates: install them, or name a file of them in SSL_CERT_FILE");
            tls::TrustStore::empty()
        }
        Trust::System => tls::TrustStore::default(),
    };
    let context = tls::TlsContext::builder().with_trust_store(store).build();
    let context = context.map_err(|e| Failure::refused(format!("the CA certificates are of no use: {e}")))?;
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let connector = Connector::builder()
        .connector_settings(settings)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .proxy_config(ProxyConfig::from_env())
        .tls_provider(tls::Provider::rustls(tls::rustls_provider::CryptoMode::Ring))
        .tls_context(context)
        .build();
    Ok(SharedHttpConnector::new(connector))
}

/// The certificates in a file, each one good: the SDK panics over others.
fn bundle(path: &Path) -> Result<Vec<u8>, Failure> {
    let useless = |why: String| Failure::refused(format!("AWS_CA_BUNDLE names {}, which {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| useless(format!("cannot be read: {e}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| useless(format!("is not in PEM format: {e}")))?;
        roots.add(certificate).map_err(|e| useless(format!("holds a bad certificate: {e}")))?;
    }
    if roots.is_empty() { Err(useless("holds no certificate".into())) } else { Ok(pem) }
}

/// Connections to whoever answers. Proxies are not asked: they would be
/// whoever answers.
#[derive(Clone, Debug)]
struct Unverified(legacy::Client<HttpsConnector<legacy::connect::HttpConnector>, SdkBody>);

impl Unverified {
    fn new() -> Result<Self, Failure> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Failure::refused(format!("cannot set up encryption: {e}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        let mut tcp = legacy::connect::HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let https =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(tcp);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(https);
        Ok(Self(client))
    }
}

impl HttpConnector for Unverified {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?;
            let answer = client.request(request).await.map_err(|e| ConnectorError::io(e.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|e| ConnectorError::other(e.into(), None))
        })
    }
}

/// Any certificate will do, if the server holds its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_is_of_no_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let why = || bundle(&path).unwrap_err().into_error("connect").to_string();
        assert!(why().contains("cannot be read"), "{}", why());
        for (content, complaint) in [
            ("", "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a bad certificate"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "is not in PEM format"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(why().contains(complaint) && why().contains("ca.pem"), "{}", why());
        }
    }
}
