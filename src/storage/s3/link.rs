//! The SDK's client for one bucket: made when first needed, made anew when the
//! service says that it is not the right one.
//!
//! Always true: nothing is contacted before the first request; each request is
//! tried once, and once more only with a client that differs: after credentials
//! turned out to be old, or the bucket to be in another region.

use std::error::Error as StdError;

use aws_config::BehaviorVersion;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio::sync::Mutex;

use super::failure::Failure;
use super::headers::Headers;
use super::{Options, credentials, transport};

/// Where S3 is unless something says otherwise; any region tells where a bucket is.
const DEFAULT_REGION: &str = "us-east-1";

/// The way to the service.
pub(super) struct Link {
    options: Options,
    now: Mutex<Option<Made>>,
}

/// A client, and what it was made with.
#[derive(Clone)]
struct Made {
    client: Client,
    region: String,
    /// Counts clients, so that one failure met by many requests makes one new client.
    number: u64,
}

impl Link {
    pub(super) fn new(options: Options) -> Self {
        Self { options, now: Mutex::const_new(None) }
    }

    /// Sends a request, and once more if a client made anew may have better luck.
    pub(super) async fn send<T, E, F>(&self, request: impl Fn(Client) -> F + Send) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let made = self.client().await?;
        let failure = match request(made.client.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(e) => Failure::of(e),
        };
        let elsewhere = failure.region.clone().filter(|region| *region != made.region);
        if elsewhere.is_none() && !failure.asks_for_other_credentials() {
            return Err(failure);
        }
        tracing::debug!(code = failure.code, region = elsewhere, "S3 wants another client, making one");
        let made = self.renew(&made, elsewhere).await?;
        request(made.client).await.map_err(Failure::of)
    }

    async fn client(&self) -> Result<Made, Failure> {
        let mut now = self.now.lock().await;
        if let Some(made) = &*now {
            return Ok(made.clone());
        }
        let region = self.region().await;
        let made = self.make(region, 0).await?;
        Ok(now.insert(made).clone())
    }

    /// A client that is not `old`.
    async fn renew(&self, old: &Made, region: Option<String>) -> Result<Made, Failure> {
        let mut now = self.now.lock().await;
        if let Some(made) = now.as_ref().filter(|made| made.number != old.number) {
            return Ok(made.clone());
        }
        let made = self.make(region.unwrap_or_else(|| old.region.clone()), old.number + 1).await?;
        Ok(now.insert(made).clone())
    }

    async fn region(&self) -> String {
        if let Some(region) = &self.options.region {
            return region.clone();
        }
        let places = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new());
        places.region().await.map_or_else(|| DEFAULT_REGION.to_owned(), |region| region.to_string())
    }

    async fn make(&self, region: String, number: u64) -> Result<Made, Failure> {
        let options = &self.options;
        let http = transport::shared(&transport::trust(options.skip_verify))?;
        let credentials = credentials::fixed(options.credentials.as_ref(), |name| std::env::var(name).ok());
        let credentials = match credentials {
            Some(fixed) => Some(fixed),
            // Reads files and environment anew each time, so a new client has new credentials.
            None => {
                let loader = aws_config::defaults(BehaviorVersion::latest());
                let loader = loader.region(Region::new(region.clone())).http_client(http.clone());
                loader.load().await.credentials_provider()
            }
        };
        let wherever_asked = if options.checksums {
            RequestChecksumCalculation::WhenSupported
        } else {
            RequestChecksumCalculation::WhenRequired
        };
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(wherever_asked)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(options.path_style)
            .use_arn_region(true)
            .interceptor(Headers::of(options)?);
        let mut config = config;
        config.set_credentials_provider(credentials);
        config.set_endpoint_url(options.endpoint.clone());
        Ok(Made { client: Client::from_conf(config.build()), region, number })
    }
}
