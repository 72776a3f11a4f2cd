//! Why a request failed, as plain values, and what that means for the caller.
//!
//! Always true: what is kept of an answer is its status, its code, its message
//! and the region it names. Headers of requests, in which secrets travel, are
//! not among them.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::super::{Error, ErrorKind};

/// Why a request failed.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// Of the answer, if there was one.
    pub(super) status: Option<u16>,
    /// What S3 calls it: `NoSuchKey`.
    pub(super) code: Option<String>,
    /// The region the bucket is in, if the answer names it.
    pub(super) region: Option<String>,
    text: String,
    /// Decided before there was an answer.
    early: Option<(ErrorKind, &'static str)>,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) kind: ErrorKind,
    pub(super) throttled: bool,
    pub(super) advice: &'static str,
}

impl Failure {
    /// Something that stands in the way of asking at all.
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self { text: text.into(), early: Some((ErrorKind::Refused, "")), ..Self::default() }
    }

    /// An answer that broke off or does not say what it should.
    pub(super) fn broken(text: impl Into<String>) -> Self {
        Self { text: text.into(), early: Some((ErrorKind::Later, "")), ..Self::default() }
    }

    /// What the SDK says.
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let (meta, raw) = (answer.err().meta(), answer.raw());
                let text = meta.message().filter(|text| !text.is_empty()).unwrap_or("no details given");
                Self {
                    status: Some(raw.status().as_u16()),
                    code: meta.code().map(str::to_owned),
                    region: raw.headers().get("x-amz-bucket-region").map(str::to_owned),
                    text: text.to_owned(),
                    early: None,
                }
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                let region = answer.raw().headers().get("x-amz-bucket-region").map(str::to_owned);
                let text = "the answer is not S3's".to_owned();
                // A success that cannot be read is no success, but may be next time.
                let early = (status < 300).then_some((ErrorKind::Later, ""));
                Self { status: Some(status), region, text, early, ..Self::default() }
            }
            error => {
                // The SDK could not make sense of what it was given.
                let nonsense = matches!(error, SdkError::ConstructionFailure(_));
                let early = before_an_answer(&error)
                    .unwrap_or((if nonsense { ErrorKind::Refused } else { ErrorKind::Later }, ""));
                Self { text: causes(&error), early: Some(early), ..Self::default() }
            }
        }
    }

    /// What it means.
    pub(super) fn verdict(&self) -> Verdict {
        match self.early {
            Some((kind, advice)) => Verdict { kind, throttled: false, advice },
            None => judge(self.status.unwrap_or(0), self.code.as_deref().unwrap_or("")),
        }
    }

    /// Whether the answer has this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The name was taken when the request was made on condition that it is not.
    pub(super) fn is_taken(&self) -> bool {
        self.is("PreconditionFailed") || self.status == Some(412)
    }

    /// Whether other credentials than the ones at hand may do.
    pub(super) fn asks_for_other_credentials(&self) -> bool {
        STALE.iter().any(|code| self.is(code))
    }

    /// For the caller: `what` was being done, such as "store a/b in bucket c".
    pub(super) fn into_error(self, what: &str) -> Error {
        let Verdict { kind, throttled, advice } = self.verdict();
        let mut message = format!("cannot {what}: ");
        let _ = match (&self.code, self.status) {
            (Some(code), _) => write!(message, "{code}: {}", self.text),
            (None, Some(status)) => write!(message, "status {status}: {}", self.text),
            (None, None) => write!(message, "{}", self.text),
        };
        message.push_str(advice);
        let error = Error::new(kind, message);
        if throttled { error.throttled() } else { error }
    }
}

/// What kind of failure it is, as far as the status alone tells: for counting.
pub(super) fn kind<E>(error: &SdkError<E, HttpResponse>) -> ErrorKind {
    match error.raw_response().map(|raw| raw.status().as_u16()) {
        Some(404) => ErrorKind::Missing,
        Some(412) => ErrorKind::Exists,
        Some(400..408 | 410 | 411 | 413..429) => ErrorKind::Refused,
        _ => ErrorKind::Later,
    }
}

/// Credentials that were good once: there may be newer ones by now.
const STALE: [&str; 5] =
    ["ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"];

const CHECK_RIGHTS: &str =
    ": allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket for these credentials";
const CHECK_KEYS: &str = ": check the access key and its secret";
const NEW_TOKEN: &str = ": renew the credentials";
const CHECK_BUCKET: &str = ": create the bucket or correct its name, region and endpoint";
const CHECK_CLOCK: &str = ": set this machine's clock";
const CHECK_REGION: &str = ": the bucket is in another region or behind another endpoint, set 'region' or 'endpoint'";
const CHECK_SETTINGS: &str = ": the service does not accept these settings";

/// What an answer with this status and code means.
pub(super) fn judge(status: u16, code: &str) -> Verdict {
    let verdict = |kind, advice| Verdict { kind, throttled: false, advice };
    let throttled = Verdict { kind: ErrorKind::Later, throttled: true, advice: "" };
    match code {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "RequestThrottled"
        | "BandwidthLimitExceeded"
        | "ServerBusy" => return throttled,
        "RequestTimeout" | "InternalError" | "OperationAborted" | "ConditionalRequestConflict" => {
            return verdict(ErrorKind::Later, "");
        }
        "NoSuchKey" | "NoSuchUpload" => return verdict(ErrorKind::Missing, ""),
        "PreconditionFailed" => return verdict(ErrorKind::Exists, ""),
        "NoSuchBucket" => return verdict(ErrorKind::Refused, CHECK_BUCKET),
        "RequestTimeTooSkewed" => return verdict(ErrorKind::Refused, CHECK_CLOCK),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => return verdict(ErrorKind::Refused, CHECK_KEYS),
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            return verdict(ErrorKind::Refused, NEW_TOKEN);
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            return verdict(ErrorKind::Refused, CHECK_REGION);
        }
        _ => {}
    }
    match status {
        429 | 503 => throttled,
        301 | 302 | 307 | 308 => verdict(ErrorKind::Refused, CHECK_REGION),
        401 | 403 => verdict(ErrorKind::Refused, CHECK_RIGHTS),
        404 => verdict(ErrorKind::Missing, ""),
        408 | 409 | 425 => verdict(ErrorKind::Later, ""),
        412 => verdict(ErrorKind::Exists, ""),
        400..=499 | 501 => verdict(ErrorKind::Refused, CHECK_SETTINGS),
        _ => verdict(ErrorKind::Later, ""),
    }
}

/// What it means that there is no answer, if that can be told.
fn before_an_answer(error: &(dyn StdError + 'static)) -> Option<(ErrorKind, &'static str)> {
    const NO_CREDENTIALS: &str =
        ": set access-key-id and secret-access-key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
    const DISTRUST: &str =
        ": the server's certificate is not trusted, name its authority in AWS_CA_BUNDLE or SSL_CERT_FILE";
    for cause in chain(error) {
        match cause.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_)) => return Some((ErrorKind::Refused, NO_CREDENTIALS)),
            Some(CredentialsError::InvalidConfiguration(_)) => return Some((ErrorKind::Refused, "")),
            _ => {}
        }
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
            return Some((ErrorKind::Refused, DISTRUST));
        }
    }
    None
}

/// An error and what caused it, also where an I/O error hides its cause.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(hidden) => Some(hidden as _),
        None => error.source(),
    })
}

/// The causes in words, outermost first, each once.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let words = cause.to_string();
        if text.contains(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_the_rest_is_not() {
        use ErrorKind::{Exists, Later, Missing, Refused};
        for (status, code, kind, throttled) in [
            (503, "SlowDown", Later, true),
            (503, "", Later, true),
            (429, "", Later, true),
            (500, "InternalError", Later, false),
            (502, "", Later, false),
            (504, "", Later, false),
            (400, "RequestTimeout", Later, false),
            (409, "ConditionalRequestConflict", Later, false),
            (409, "OperationAborted", Later, false),
            (412, "PreconditionFailed", Exists, false),
            (412, "", Exists, false),
            (404, "NoSuchKey", Missing, false),
            (404, "", Missing, false),
            (404, "NoSuchBucket", Refused, false),
            (403, "AccessDenied", Refused, false),
            (403, "SignatureDoesNotMatch", Refused, false),
            (403, "RequestTimeTooSkewed", Refused, false),
            (401, "", Refused, false),
            (400, "InvalidArgument", Refused, false),
            (400, "ExpiredToken", Refused, false),
            (416, "InvalidRange", Refused, false),
            (501, "NotImplemented", Refused, false),
            (301, "PermanentRedirect", Refused, false),
            (0, "", Later, false),
        ] {
            let verdict = judge(status, code);
            assert_eq!((verdict.kind, verdict.throttled), (kind, throttled), "{status} {code}");
        }
    }

    #[test]
    fn a_message_says_what_happened_to_what_and_what_to_do() {
        let failure = Failure {
            status: Some(404),
            code: Some("NoSuchBucket".into()),
            text: "The specified bucket does not exist".into(),
            ..Failure::default()
        };
        assert_eq!(
            failure.into_error("list a in bucket b").to_string(),
            "cannot list a in bucket b: NoSuchBucket: The specified bucket does not exist: \
             create the bucket or correct its name, region and endpoint"
        );
    }

    #[test]
    fn a_cause_hidden_in_an_input_output_error_is_found() {
        let hidden = io::Error::other(io::Error::other(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer,
        )));
        assert_eq!(before_an_answer(&hidden).map(|(kind, _)| kind), Some(ErrorKind::Refused));
        assert_eq!(before_an_answer(&io::Error::other("reset")), None);
    }
}
