//! Which service, which region, and how the bucket is named there. Pure.
//!
//! The exceptions that Litestream makes to what counts first are kept, and marked.

use super::asked::{Asked, is_true};
use crate::config::error::Error;
use crate::storage::s3::providers::{self, Located, Provider};

/// An endpoint and where it comes from.
pub(super) struct Endpoint {
    pub(super) url: Option<String>,
    /// Somebody wrote it down as an endpoint: it was not made from a host that
    /// holds the bucket.
    pub(super) explicit: Explicit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Explicit {
    No,
    /// In the URL's query.
    Query,
    /// As a key, or in the environment.
    Setting,
}

impl Asked<'_> {
    pub(super) fn endpoint(&self, located: &Located) -> Result<Endpoint, Error> {
        if let Some(text) = self.text("endpoint") {
            let url = checked("endpoint", text, |_| "https")?;
            return Ok(Endpoint { url: Some(url), explicit: Explicit::Setting });
        }
        let near_or_far = |text: &str| if providers::is_local(text) { "http" } else { "https" };
        if let Some(text) = self.parameter(&["endpoint"]) {
            let url = checked("endpoint", text, near_or_far)?;
            return Ok(Endpoint { url: Some(url), explicit: Explicit::Query });
        }
        if located.endpoint.is_some() {
            return Ok(Endpoint { url: located.endpoint.clone(), explicit: Explicit::No });
        }
        let ignored = self.environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(is_true);
        let aws = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().filter(|_| !ignored);
        let set = |name| Some((name, self.environment.get(name)?));
        match ["LITESTREAM_S3_ENDPOINT"].into_iter().chain(aws).find_map(set) {
            // A host of AWS was spelled out.
            Some(_) if self.url.is_some_and(|url| located.bucket.as_ref() != Some(&url.host)) => {
                Ok(Endpoint { url: None, explicit: Explicit::No })
            }
            Some((name, text)) => {
                let url = checked(name, text, near_or_far)?;
                Ok(Endpoint { url: Some(url), explicit: Explicit::Setting })
            }
            None => Ok(Endpoint { url: None, explicit: Explicit::No }),
        }
    }

    /// `None` leaves it to be found out.
    pub(super) fn region(
        &self,
        located: &Located,
        bucket: &str,
        endpoint: &Endpoint,
        provider: Option<&Provider>,
    ) -> Option<String> {
        let said = self.value("region", &["region"]).map(str::to_owned);
        let in_names = || located.region.clone().or_else(|| providers::access_point_region(bucket).map(str::to_owned));
        let in_endpoint = || endpoint.url.as_deref().and_then(providers::region_of_endpoint);
        // Before the environment: on a machine of AWS that names a region of AWS.
        let of_provider = || provider.and_then(|provider| provider.region).map(str::to_owned);
        let around = || ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| self.environment.get(name));
        let default = || endpoint.url.is_some().then(|| "us-east-1".to_owned());
        said.or_else(in_names)
            .or_else(in_endpoint)
            .or_else(of_provider)
            .or_else(|| around().map(str::to_owned))
            .or_else(default)
    }

    /// Whether the bucket stands in the path. The exceptions are Litestream's:
    /// `false` in a key does not undo what a URL implies, `false` in a URL does not
    /// undo what a key or a service implies.
    pub(super) fn path_style(&self, located: &Located, endpoint: &Endpoint, provider: Option<&Provider>) -> bool {
        let in_url = self.parameter(&["forcePathStyle", "force-path-style"]).map(is_true);
        let self_run = endpoint.url.as_deref().is_some_and(providers::is_self_run);
        let of_service = self_run || provider.is_some_and(|provider| provider.path_style);
        match (self.bool("force-path-style"), in_url) {
            (Some(true), _) | (_, Some(true)) => true,
            (Some(false), _) => located.path_style,
            (None, Some(false)) => of_service || endpoint.explicit == Explicit::Setting,
            (None, None) => of_service || located.path_style || endpoint.explicit != Explicit::No,
        }
    }

    /// In this one the URL counts first.
    pub(super) fn skip_verify(&self) -> bool {
        let in_url = self.parameter(&["skipVerify", "skip-verify"]).map(is_true);
        in_url.or_else(|| self.bool("skip-verify")).unwrap_or(false)
    }
}

/// An endpoint with its scheme, and without a slash at the end.
fn checked(name: &str, text: &str, scheme: impl Fn(&str) -> &'static str) -> Result<String, Error> {
    let url = match text.split_once("://") {
        Some(_) => text.to_owned(),
        None => format!("{}://{text}", scheme(text)),
    };
    let field = |reason: &str, got: &str| Err(Error::field(name, reason, got));
    let Some(("http" | "https", rest)) = url.split_once("://") else {
        return field("must be a URL with http or https", text);
    };
    if rest.contains('@') {
        return field("must not hold a user name or password", "***");
    }
    if rest.is_empty() || rest.starts_with('/') || rest.contains(|c: char| c.is_whitespace() || c == '?' || c == '#') {
        return field("must be a URL with a host, such as https://s3.example.com", text);
    }
    Ok(url.trim_end_matches('/').to_owned())
}
