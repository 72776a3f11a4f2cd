//! Headers that the SDK does not know of.

use std::fmt;

use aws_sdk_s3::config::ConfigBag;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_types::base64;
use md5::{Digest, Md5};

use super::Options;
use super::failure::Failure;

/// Headers that every request carries. Their values are not shown: providers
/// put tokens into such headers.
pub(super) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(super) fn of(options: &Options) -> Result<Self, Failure> {
        for (name, value) in &options.headers {
            let name_fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            if !name_fits || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                return Err(Failure::refused(format!("{name:?} cannot be sent as a header: correct it")));
            }
        }
        Ok(Self(options.headers.clone()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[dyn_dispatch_hint]
impl Intercept for Headers {
    fn name(&self) -> &'static str {
        "Headers"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        for (name, value) in &self.0 {
            headers.try_insert(name.to_ascii_lowercase(), value.clone())?;
        }
        Ok(())
    }
}

/// The body's MD5 in place of newer checksums, which older services refuse.
#[derive(Debug)]
pub(super) struct ContentMd5;

#[dyn_dispatch_hint]
impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let digest = Md5::digest(request.body().bytes().unwrap_or_default());
        let headers = request.headers_mut();
        let newer: Vec<String> = headers
            .iter()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("x-amz-checksum-") || *name == "x-amz-sdk-checksum-algorithm")
            .map(str::to_owned)
            .collect();
        for name in newer {
            headers.remove(name);
        }
        headers.try_insert("content-md5", base64::encode(digest))?;
        Ok(())
    }
}
