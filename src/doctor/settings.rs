//! What can be said about the settings of a storage without asking it. Pure.

use super::{Finding, Verdict};
use crate::storage::s3::{Options, providers};

/// Classes whose objects must be fetched out of an archive before they can be read.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Classes that bill every object as if it were larger and lived longer.
const SLOW_CLASSES: [&str; 4] = ["STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "INTELLIGENT_TIERING"];

/// What is remarkable about the settings of an S3 storage, the service first.
pub fn remarks(options: &Options) -> Vec<Finding> {
    let mut findings = vec![service(options)];
    if let Some(endpoint) = options.endpoint.as_deref().filter(|url| url.starts_with("http://"))
        && !providers::is_local(endpoint)
    {
        let found = format!("{endpoint} is not encrypted: everybody on the way can read the database");
        findings.push(Finding::new("encryption", Verdict::Warning, found).advise("use an https endpoint"));
    }
    if options.skip_verify {
        let found = "certificates are not verified: anybody on the way can pose as the storage";
        let advice = "remove skip-verify and name the certificate's authority in SSL_CERT_FILE";
        findings.push(Finding::new("certificates", Verdict::Warning, found).advise(advice));
    }
    if let Some(class) = options.storage_class.as_deref() {
        if ARCHIVES.contains(&class) {
            let found = format!("objects of class {class} cannot be read at once");
            let advice = "choose a class that can be read at any time, or restores will fail";
            findings.push(Finding::new("storage-class", Verdict::Failed, found).advise(advice));
        } else if SLOW_CLASSES.contains(&class) {
            let found = format!("class {class} bills small or short-lived objects as large or long-lived ones");
            let advice = "brooklet writes many small objects and merges them soon: compare the cost with STANDARD";
            findings.push(Finding::new("storage-class", Verdict::Warning, found).advise(advice));
        }
    }
    findings
}

/// Names are looked at before they are written.
pub fn without_conditions() -> Finding {
    let found = "the service is not asked to refuse a second write to the same name: brooklet looks before it writes";
    Finding::new("conditional-writes", Verdict::Warning, found)
        .advise("two writers at the same moment are not told apart: make sure that only one brooklet writes here")
}

fn service(options: &Options) -> Finding {
    let endpoint = options.endpoint.as_deref();
    let name = match endpoint.map(providers::of_endpoint) {
        None => "AWS",
        Some(Some(provider)) => provider.name,
        Some(None) => "a service that is not known by its name",
    };
    let region = options.region.as_deref().unwrap_or("found out");
    let style = if options.path_style { "path" } else { "host" };
    let place = endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
    let found = format!("{name}{place}, region {region}, bucket {} in the {style}", options.bucket);
    Finding::new("service", Verdict::Ok, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::s3::{COPY_SIZE, Encryption};

    fn options(change: impl FnOnce(&mut Options)) -> Vec<(&'static str, Verdict)> {
        let mut options = Options {
            bucket: "b".into(),
            region: Some("r".into()),
            endpoint: Some("https://s3.fr-par.scw.cloud".into()),
            path_style: true,
            skip_verify: false,
            sign_payload: true,
            content_md5: true,
            checksums: false,
            storage_class: None,
            part_size: 5 << 20,
            copy_size: COPY_SIZE,
            concurrency: 5,
            encryption: Encryption::Bucket,
            tags: Vec::new(),
            headers: Vec::new(),
            credentials: None,
        };
        change(&mut options);
        remarks(&options).iter().map(|finding| (finding.check, finding.result)).collect()
    }

    #[test]
    fn settings_that_somebody_should_know_of_are_named() {
        let ok = ("service", Verdict::Ok);
        assert_eq!(options(|_| ()), [ok]);
        assert_eq!(options(|o| o.endpoint = Some("http://localhost:9000".into())), [ok]);
        let far = options(|o| o.endpoint = Some("http://s3.example.com".into()));
        assert_eq!(far, [ok, ("encryption", Verdict::Warning)]);
        assert_eq!(options(|o| o.skip_verify = true), [ok, ("certificates", Verdict::Warning)]);
        let class = |name: &'static str| options(move |o| o.storage_class = Some(name.into()));
        assert_eq!(class("DEEP_ARCHIVE"), [ok, ("storage-class", Verdict::Failed)]);
        assert_eq!(class("STANDARD_IA"), [ok, ("storage-class", Verdict::Warning)]);
        assert_eq!(class("STANDARD"), [ok]);
    }
}
