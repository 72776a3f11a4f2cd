//! Who we are, for S3.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

use super::options;

/// The credentials that are written down: in the configuration, or in the
/// environment under Litestream's names, which fill in for unset AWS ones.
/// `None`: the SDK knows more places to look.
pub(super) fn fixed(
    configured: Option<&options::Credentials>,
    environment: impl Fn(&str) -> Option<String>,
) -> Option<SharedCredentialsProvider> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let credentials = match configured {
        Some(options::Credentials { access_key_id, secret_access_key, session_token }) => {
            let token = session_token.as_ref().map(|token| token.reveal().to_owned());
            Credentials::new(access_key_id, secret_access_key.reveal(), token, None, "configuration")
        }
        None => {
            let ours = set("LITESTREAM_ACCESS_KEY_ID").is_some() || set("LITESTREAM_SECRET_ACCESS_KEY").is_some();
            let id = set("AWS_ACCESS_KEY_ID").or_else(|| set("LITESTREAM_ACCESS_KEY_ID"))?;
            let secret = set("AWS_SECRET_ACCESS_KEY").or_else(|| set("LITESTREAM_SECRET_ACCESS_KEY"))?;
            if !ours {
                return None;
            }
            Credentials::new(id, secret, set("AWS_SESSION_TOKEN"), None, "environment")
        }
    };
    Some(SharedCredentialsProvider::new(credentials))
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::ProvideCredentials;

    use super::*;
    use crate::types::Secret;

    fn found(configured: Option<&options::Credentials>, environment: &[(&str, &str)]) -> Option<Vec<String>> {
        let get = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let provider = fixed(configured, get)?;
        let found = futures::executor::block_on(provider.provide_credentials()).unwrap();
        let token = found.session_token().unwrap_or_default();
        Some([found.access_key_id(), found.secret_access_key(), token].map(str::to_owned).to_vec())
    }

    #[test]
    fn litestreams_names_fill_in_for_unset_aws_ones() {
        let all = [
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_SESSION_TOKEN", "t"),
            ("LITESTREAM_ACCESS_KEY_ID", "c"),
            ("LITESTREAM_SECRET_ACCESS_KEY", "d"),
        ];
        assert_eq!(found(None, &all).unwrap(), ["a", "b", "t"]);
        assert_eq!(found(None, &all[3..]).unwrap(), ["c", "d", ""]);
        assert_eq!(found(None, &[all[0], all[4]]).unwrap(), ["a", "d", ""]);
        assert_eq!(found(None, &[("AWS_ACCESS_KEY_ID", ""), all[3], all[4]]).unwrap(), ["c", "d", ""]);
        assert_eq!(found(None, &all[..3]), None, "the SDK reads these itself");
        assert_eq!(found(None, &[all[3]]), None, "half a pair is none");
        let configured = options::Credentials {
            access_key_id: "x".into(),
            secret_access_key: Secret::new("y"),
            session_token: None,
        };
        assert_eq!(found(Some(&configured), &all).unwrap(), ["x", "y", ""]);
    }
}
