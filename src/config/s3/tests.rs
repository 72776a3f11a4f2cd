//! What becomes of keys, URLs and the environment.

use super::*;
use crate::config::{Backend, Config, Environment, ReplicaSettings};
use crate::storage::s3::Credentials;
use crate::types::Secret;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        variables: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        working_dir: "/srv".into(),
        home: Some("/home/ann".into()),
        ..Environment::default()
    }
}

/// 32 bytes.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn s3(backend: Backend) -> S3Settings {
    match backend {
        Backend::S3(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

fn in_config(text: &str, variables: &[(&str, &str)]) -> Result<(S3Settings, Vec<String>), String> {
    let config = Config::parse(text, &environment(variables)).map_err(|error| error.to_string())?;
    let databases = config.databases().map_err(|error| error.to_string())?;
    let texts = config.warnings.iter().map(|warning| warning.text.clone()).collect();
    Ok((s3(databases[0].replicas[0].backend.clone()), texts))
}

/// The settings of a replica with these keys, below these global ones.
fn keys(global: &str, replica: &str) -> Result<(S3Settings, Vec<String>), String> {
    in_config(&format!("{global}\ndbs: [{{path: /a, replica: {{{replica}}}}}]"), &[])
}

fn of_keys(global: &str, replica: &str) -> Options {
    keys(global, replica).unwrap_or_else(|error| panic!("{replica}: {error}")).0.options
}

fn of_url(url: &str) -> S3Settings {
    s3(ReplicaSettings::from_url(url, &environment(&[]), &mut Vec::new()).unwrap().backend)
}

fn refused(replica: &str) -> String {
    keys("", replica).expect_err(replica)
}

#[test]
fn a_bucket_of_aws_needs_nothing_but_its_name() {
    let expected = Options {
        bucket: "b".into(),
        region: None,
        endpoint: None,
        path_style: false,
        skip_verify: false,
        sign_payload: true,
        content_md5: true,
        checksums: true,
        storage_class: None,
        part_size: 5 * 1024 * 1024,
        copy_size: COPY_SIZE,
        concurrency: 5,
        encryption: Encryption::Bucket,
        tags: Vec::new(),
        headers: Vec::new(),
        credentials: None,
    };
    assert!(of_url("s3://b/p").options == expected);
    assert!(of_keys("", "url: 's3://b/p'") == expected);
    assert!(of_keys("", "type: s3, bucket: b, path: p") == expected);
    assert!(of_keys("bucket: b", "type: s3, path: p") == expected);
    assert!(of_keys("bucket: other", "url: 's3://b/p'") == expected, "a global bucket belongs to others");
}

#[test]
fn every_key_arrives_from_the_replica_or_from_the_top() {
    let all = [
        "access-key-id: AKIA",
        "secret-access-key: shh",
        "session-token: tok",
        "region: eu-west-1",
        "bucket: b",
        "endpoint: 'https://s3.example.com/'",
        "force-path-style: false",
        "skip-verify: true",
        "sign-payload: false",
        "require-content-md5: false",
        "checksums: true",
        "storage-class: STANDARD_IA",
        "part-size: 8MiB",
        "concurrency: 3",
        "sse-customer-algorithm: AES256",
        &format!("sse-customer-key: {KEY}"),
        "tags: {app: shop, team: 5}",
        "headers: {X-One: '1'}",
    ];
    let expected = Options {
        bucket: "b".into(),
        region: Some("eu-west-1".into()),
        endpoint: Some("https://s3.example.com".into()),
        path_style: false,
        skip_verify: true,
        sign_payload: false,
        content_md5: false,
        checksums: true,
        storage_class: Some("STANDARD_IA".into()),
        part_size: 8 * 1024 * 1024,
        copy_size: COPY_SIZE,
        concurrency: 3,
        encryption: Encryption::Customer { algorithm: "AES256".into(), key: Secret::new(KEY) },
        tags: vec![("app".into(), "shop".into()), ("team".into(), "5".into())],
        headers: vec![("X-One".into(), "1".into())],
        credentials: Some(Credentials {
            access_key_id: "AKIA".into(),
            secret_access_key: Secret::new("shh"),
            session_token: Some(Secret::new("tok")),
        }),
    };
    assert!(of_keys("", &format!("type: s3, {}", all.join(", "))) == expected);
    assert!(of_keys(&all.join("\n"), "type: s3") == expected);
    assert!(of_keys("", "type: s3, bucket: b, sse-kms-key-id: k").encryption == Encryption::Kms { key_id: "k".into() });
}

#[test]
fn every_parameter_of_a_url_has_both_spellings() {
    let hyphens = format!(
        "s3://b/p?endpoint=s3.example.com&region=r&force-path-style=true&skip-verify=yes&sign-payload=f&\
         require-content-md5=0&storage-class=GLACIER&part-size=6291456&concurrency=2&sse-customer-key={KEY}"
    );
    let camels = hyphens
        .replace("force-path-style", "forcePathStyle")
        .replace("skip-verify", "skipVerify")
        .replace("sign-payload", "signPayload")
        .replace("require-content-md5", "requireContentMD5")
        .replace("storage-class", "storageClass")
        .replace("part-size", "partSize")
        .replace("sse-customer-key", "sseCustomerKey");
    let options = of_url(&hyphens).options;
    assert!(options == of_url(&camels).options);
    assert_eq!(options.endpoint.as_deref(), Some("https://s3.example.com"));
    assert_eq!(options.region.as_deref(), Some("r"));
    assert!(options.path_style && options.skip_verify && !options.sign_payload && !options.content_md5);
    assert_eq!((options.part_size, options.concurrency), (6 * 1024 * 1024, 2));
    assert_eq!(options.storage_class.as_deref(), Some("GLACIER"));
    assert!(matches!(options.encryption, Encryption::Customer { .. }));
    assert!(of_url("s3://b?sse-kms-key-id=k").options.encryption == Encryption::Kms { key_id: "k".into() });
    assert_eq!(of_url("s3://b?endpoint=10.0.0.1:9000").options.endpoint.as_deref(), Some("http://10.0.0.1:9000"));
}

#[test]
fn keys_are_stronger_than_the_url() {
    let url =
        "url: 's3://b.s3.eu-west-1.amazonaws.com/p?storage-class=A&part-size=6291456&concurrency=2&sign-payload=true'";
    let options = of_keys("", &format!("{url}, region: r, storage-class: B, part-size: 7MiB, sign-payload: false"));
    assert_eq!((options.region.as_deref(), options.storage_class.as_deref()), (Some("r"), Some("B")));
    assert_eq!((options.part_size, options.concurrency, options.sign_payload), (7 * 1024 * 1024, 2, false));
    assert_eq!(of_keys("region: g", "url: 's3://b?region=u'").region.as_deref(), Some("g"));
    // But for this one.
    assert!(!of_keys("", "url: 's3://b?skip-verify=false', skip-verify: true").skip_verify);
    assert!(!of_keys("skip-verify: true", "type: s3, bucket: b, skip-verify: false").skip_verify);
}

#[test]
fn the_path_style_follows_litestream_with_its_exceptions() {
    let host = "url: 's3://b.minio:9000/p'";
    let cases = [
        ("url: 's3://b/p'", false),
        ("url: 's3://b/p', force-path-style: true", true),
        (host, true),
        ("url: 's3://b.minio:9000/p', force-path-style: false", true),
        ("url: 's3://b.minio:9000/p?forcePathStyle=false'", true),
        ("url: 's3://b.nyc3.digitaloceanspaces.com/p'", false),
        ("url: 's3://b.s3.us-west-002.backblazeb2.com/p?forcePathStyle=false'", true),
        ("url: 's3://b/p?endpoint=s3.example.com'", true),
        ("url: 's3://b/p?endpoint=s3.example.com&forcePathStyle=false'", false),
        ("type: s3, bucket: b, endpoint: s3.example.com", true),
        ("type: s3, bucket: b, endpoint: s3.example.com, force-path-style: false", false),
        ("url: 's3://b/p?forcePathStyle=false', endpoint: s3.example.com", true),
        ("url: 's3://b/p?forcePathStyle=true', endpoint: s3.example.com, force-path-style: false", true),
    ];
    for (replica, expected) in cases {
        assert_eq!(of_keys("", replica).path_style, expected, "{replica}");
    }
}

#[test]
fn services_get_what_they_want() {
    let options = of_keys("", "url: 's3://b/p', endpoint: 'https://fly.storage.tigris.dev'");
    assert_eq!(options.headers, [("X-Tigris-Consistent".to_owned(), "true".to_owned())]);
    assert_eq!((options.content_md5, options.checksums, options.region.as_deref()), (false, false, Some("auto")));
    let own = "endpoint: 'https://t3.storage.dev', headers: {x-tigris-consistent: 'false'}, require-content-md5: true";
    let options = of_keys("", &format!("url: 's3://b/p', {own}"));
    assert_eq!(options.headers, [("x-tigris-consistent".to_owned(), "false".to_owned())]);
    assert!(options.content_md5);
    let options = of_keys("", "url: 's3://b/p', endpoint: 'https://0123.r2.cloudflarestorage.com'");
    assert_eq!((options.concurrency, options.region.as_deref()), (2, Some("auto")));
    let options = of_keys("", "url: 's3://b/p', endpoint: 's3.fr-par.scw.cloud'");
    assert_eq!(
        (options.endpoint.as_deref(), options.region.as_deref()),
        (Some("https://s3.fr-par.scw.cloud"), Some("fr-par"))
    );
}

#[test]
fn names_are_looked_at_first_where_conditions_are_not_known() {
    let of = |replica: &str| keys("", replica).unwrap().0.conditional_writes;
    assert!(of("url: 's3://b/p'"));
    assert!(!of("url: 's3://b.s3.us-west-002.backblazeb2.com/p'"));
    assert!(of("url: 's3://b.s3.us-west-002.backblazeb2.com/p?conditional-writes=true'"));
    assert!(!of("url: 's3://b.garage:3900/p', conditional-writes: false"));
    assert!(!of("type: s3, bucket: b, endpoint: 'https://storage.googleapis.com'"));
}

#[test]
fn the_environment_names_endpoint_and_region_last() {
    let with = |url: &str, variables: &[(&str, &str)]| {
        let replica = ReplicaSettings::from_url(url, &environment(variables), &mut Vec::new()).unwrap();
        let options = s3(replica.backend).options;
        (options.endpoint.unwrap_or_default(), options.region.unwrap_or_default(), options.path_style)
    };
    let found = |endpoint: &str, region: &str, path: bool| (endpoint.to_owned(), region.to_owned(), path);
    let tigris = ("AWS_ENDPOINT_URL_S3", "https://fly.storage.tigris.dev");
    assert_eq!(with("s3://b", &[tigris]), found("https://fly.storage.tigris.dev", "auto", true));
    assert_eq!(with("s3://b", &[("AWS_ENDPOINT_URL", "https://h")]), found("https://h", "us-east-1", true));
    assert_eq!(
        with("s3://b", &[("AWS_ENDPOINT_URL", "https://h"), ("AWS_ENDPOINT_URL_S3", "https://i")]).0,
        "https://i"
    );
    assert_eq!(with("s3://b", &[("LITESTREAM_S3_ENDPOINT", "localhost:9000"), tigris]).0, "http://localhost:9000");
    let off = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
    assert_eq!(with("s3://b", &[tigris, off]), found("", "", false));
    assert_eq!(with("s3://b.minio:9000", &[tigris]).0, "http://minio:9000");
    assert_eq!(with("s3://b?endpoint=h", &[tigris]).0, "https://h");
    assert_eq!(with("s3://b.s3.amazonaws.com", &[tigris]).0, "");

    let region = ("AWS_REGION", "eu-west-1");
    assert_eq!(with("s3://b", &[region, ("AWS_DEFAULT_REGION", "x")]).1, "eu-west-1");
    assert_eq!(with("s3://b", &[("AWS_DEFAULT_REGION", "x")]).1, "x");
    assert_eq!(with("s3://b.minio:9000", &[region]).1, "eu-west-1");
    assert_eq!(with("s3://b.minio:9000", &[]).1, "us-east-1");
    assert_eq!(with("s3://b.s3.fr-par.scw.cloud", &[region]).1, "fr-par");
    assert_eq!(with("s3://b.0123.r2.cloudflarestorage.com", &[region]).1, "auto");
    assert_eq!(with("s3://b?region=u", &[region]).1, "u");
    assert_eq!(with("s3://arn:aws:s3:eu-west-3:1:accesspoint/n/p", &[region]).1, "eu-west-3");
}

#[test]
fn half_a_pair_of_credentials_is_not_used_and_said_so() {
    let (settings, warnings) = keys("", "type: s3, bucket: b, access-key-id: AKIA").unwrap();
    assert_eq!(settings.options.credentials, None);
    let expected = "key \"access-key-id\" (line 2) is not used because \"secret-access-key\" is missing: \
                    credentials are taken from the environment";
    assert_eq!(warnings, [expected]);
    let (_, warnings) = keys("secret-access-key: shh", "type: s3, bucket: b").unwrap();
    assert!(warnings[0].starts_with("key \"secret-access-key\" (line 1) is not used"), "{warnings:?}");

    let token = |global: &str, replica: &str| {
        let credentials = of_keys(global, &format!("type: s3, bucket: b, {replica}")).credentials.unwrap();
        credentials.session_token.map(|token| token.reveal().to_owned())
    };
    let global = "access-key-id: A\nsecret-access-key: s\nsession-token: t";
    assert_eq!(token(global, "region: r").as_deref(), Some("t"));
    assert_eq!(token(global, "access-key-id: B, secret-access-key: s2"), None, "a token belongs to its pair");
}

#[test]
fn mistakes_are_named() {
    let s3 = |keys: &str| refused(&format!("type: s3, bucket: b, {keys}"));
    assert_eq!(refused("url: 's3://localhost:9000/p'"), "bucket required for s3 replica");
    assert_eq!(refused("url: 's3://127.0.0.1:9000/p'"), "bucket required for s3 replica");
    assert_eq!(s3("part-size: 1MiB"), "part-size: must be between 5MiB and 5GiB (got 1048576)");
    assert_eq!(s3("concurrency: -1"), "concurrency: must be greater than 0 (got -1)");
    assert_eq!(refused("url: 's3://b?part-size=x'"), "part-size: must be a number of bytes (got x)");
    assert_eq!(refused("url: 's3://b?concurrency=0'"), "concurrency: must be greater than 0 (got 0)");
    assert_eq!(s3("endpoint: 'ftp://x'"), "endpoint: must be a URL with http or https (got ftp://x)");
    assert_eq!(s3("endpoint: 'https://u:hunter2@x'"), "endpoint: must not hold a user name or password (got ***)");
    assert_eq!(
        s3("endpoint: 'https://'"),
        "endpoint: must be a URL with a host, such as https://s3.example.com (got https://)"
    );
    assert_eq!(s3("sse-customer-key: hunter2"), "sse-customer-key: must hold 32 bytes in base64");
    assert_eq!(
        s3(&format!("sse-customer-key: {KEY}, sse-kms-key-id: k")),
        "cannot specify both sse-customer-key and sse-kms-key-id: choose one"
    );
    assert_eq!(
        s3("sse-customer-key-path: f, sse-kms-key-id: k"),
        "cannot specify both sse-customer-key and sse-kms-key-id: choose one"
    );
    assert_eq!(s3("sse-customer-algorithm: DES"), "sse-customer-algorithm: must be AES256 (got DES)");
    assert_eq!(
        s3("sse-customer-algorithm: AES256"),
        "sse-customer-key required with sse-customer-algorithm: give a key of 32 bytes"
    );
    assert_eq!(
        s3(&format!("sse-customer-key: {KEY}, endpoint: 'http://s3.example.com'")),
        "endpoint: sse-customer-key must not travel in the clear: use an https endpoint (got http://s3.example.com)"
    );
    assert!(keys("", &format!("type: s3, bucket: b, sse-customer-key: {KEY}, endpoint: 'http://localhost:1'")).is_ok());
    assert_eq!(s3("headers: {'a b': x}"), "headers: not the name of a header (got a b)");
    assert_eq!(s3("headers: {HOST: x}"), "headers: this header belongs to the request itself (got HOST)");
    assert_eq!(s3("headers: {x-a: \"a\\nb\"}"), "headers: values have only visible ASCII characters (got x-a)");
    assert_eq!(s3("tags: {'': x}"), "tags: names have 1 to 128 characters and values at most 256 (got )");
    let eleven: Vec<String> = (0..11).map(|n| format!("t{n}: v")).collect();
    assert_eq!(s3(&format!("tags: {{{}}}", eleven.join(", "))), "tags: an object has at most 10 tags (got 11)");
    assert_eq!(s3("path: a/../b"), {
        "path: \"a/../b\" is not a storage key: '..' segments are not allowed, write the path without them"
    });
    assert!(refused("type: s3, bucket: b, tags: [a]").contains("cannot unmarshal !!seq into map"));
    assert!(
        refused("type: s3, bucket: b, headers: {a: [b]}").contains("into string (key \"dbs[0].replica.headers.a\")")
    );
}

#[test]
fn odd_urls_are_pointed_out() {
    let (_, warnings) = keys("", "url: 's3://u:hunter2@b/p?regoin=x'").unwrap();
    assert_eq!(
        warnings,
        [
            "parameter \"regoin\" of an s3 url is not known and ignored",
            "user name and password of an s3 url are ignored: use access-key-id and secret-access-key"
        ]
    );
}

#[test]
fn a_key_in_a_file_is_read_when_it_is_needed() {
    let config = format!("type: s3, bucket: b, sse-customer-key-path: ~/k, sse-customer-key: {KEY}");
    let settings = keys("", &config).unwrap().0;
    let read = |text: &'static str| {
        move |path: &Path| {
            assert_eq!(path, Path::new("/home/ann/k"));
            Ok(text.to_owned())
        }
    };
    let options = settings.options(read("YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\n")).unwrap();
    let Encryption::Customer { key, .. } = options.encryption else { panic!() };
    assert!(key.reveal().starts_with("YWFh"), "the file is stronger");
    let wrong = settings.options(read("hunter2")).unwrap_err().to_string();
    assert_eq!(wrong, "sse-customer-key-path: must hold 32 bytes in base64 (got /home/ann/k)");
    let gone = settings.options(|_| Err(io::ErrorKind::NotFound.into())).unwrap_err().to_string();
    assert_eq!(gone, "sse-customer-key-path: cannot be read: entity not found (got /home/ann/k)");
}

#[test]
fn roots_are_kept_as_litestream_keeps_them_and_others_are_known() {
    let of = |settings: S3Settings| settings.roots.iter().map(ToString::to_string).collect::<Vec<_>>();
    let url = |url: &str| of(of_url(url));
    let path = |path: &str| of(keys("", &format!("type: s3, bucket: b, path: '{path}'")).unwrap().0);
    assert_eq!(url("s3://b"), [".", ""]);
    assert_eq!(url("s3://b/"), ["", "."]);
    assert_eq!(url("s3://b/a/b/"), ["a/b", "a/b/", "/a/b"]);
    assert_eq!(url("s3://b.minio:9000/a"), ["a", "a/", "/a"]);
    assert_eq!(path("a/b/"), ["a/b/", "a/b", "/a/b"]);
    assert_eq!(path("/a"), ["/a", "a", "a/"]);
    assert_eq!(path("a//b"), ["a//b", "a/b", "a/b/", "/a/b"]);
    assert_eq!(path("."), [".", ""]);
    assert_eq!(path(""), ["", "."]);
    let places = ["s3://b", "s3://b/", "s3://b.s3.amazonaws.com"].map(|url| of_url(url).place());
    assert_eq!(places, ["aws/b/"; 3]);
    let places = ["/a", "a/", "a", "./a"]
        .map(|path| keys("", &format!("type: s3, bucket: b, path: '{path}'")).unwrap().0.place());
    assert_eq!(places, ["aws/b/a"; 4]);
    assert_ne!(of_url("s3://b.h:1/a").place(), of_url("s3://b.h:2/a").place());
    assert_eq!(of_url("s3://b").location(), "s3://b/");
    assert_eq!(of_url("s3://b/a/").location(), "s3://b/a");
}

#[test]
fn secrets_do_not_show_in_settings() {
    let replica = format!(
        "type: s3, bucket: b, access-key-id: A, secret-access-key: hunter2, session-token: hunter2, \
         sse-customer-key: {KEY}, headers: {{x-a: hunter2}}"
    );
    let settings = keys("", &replica).unwrap().0;
    let shown = format!("{settings:?} {:#?} {:?}", settings.options.credentials, settings.options.encryption);
    assert!(!shown.contains("hunter2") && !shown.contains(KEY), "{shown}");
    let environment = environment(&[("AWS_SECRET_ACCESS_KEY", "hunter2")]);
    assert!(!format!("{environment:?}").contains("hunter2"));
}
