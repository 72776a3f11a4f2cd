//! Services that speak S3, by their host names: how a host is taken apart into
//! bucket, region and endpoint, and what a service wants done differently.
//!
//! Always true: what Litestream 0.3 or 0.5 makes of a host, this makes of it too,
//! as far as both do not contradict each other (then 0.5 counts). A host that
//! nobody knows is a bucket of AWS. Pure.

use core::net::IpAddr; // an address is a value, not the network

/// One service and its wishes.
#[derive(Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name, for people.
    pub name: &'static str,
    /// Every host below one of these is the service's.
    domains: &'static [&'static str],
    /// Endpoints, label by label: `*` is any label, `{region}` one that names the region.
    endpoints: &'static [&'static str],
    /// The region that requests are signed for if nobody names one. `None`: any, or
    /// the one in the host.
    pub region: Option<&'static str>,
    /// The bucket stands in the path, whatever a URL says.
    pub path_style: bool,
    /// In a URL of the form `s3://BUCKET.HOST/` the bucket stays in the host.
    virtual_host: bool,
    /// Batch deletions carry a `Content-MD5`.
    pub content_md5: bool,
    /// Parts of one object under way at a time.
    pub concurrency: usize,
    /// Headers of every request.
    pub headers: &'static [(&'static str, &'static str)],
}

/// Parts of one object under way at a time, where a service does not want fewer.
pub const CONCURRENCY: usize = 5;

/// A service without wishes of its own.
const PLAIN: Provider = Provider {
    name: "",
    domains: &[],
    endpoints: &[],
    region: None,
    path_style: false,
    virtual_host: false,
    content_md5: true,
    concurrency: CONCURRENCY,
    headers: &[],
};

const AWS: &str = "AWS";

const PROVIDERS: &[Provider] = &[
    Provider {
        name: AWS,
        domains: &["amazonaws.com", "amazonaws.com.cn"],
        endpoints: &["s3.{region}.amazonaws.com", "s3.amazonaws.com"],
        virtual_host: true,
        ..PLAIN
    },
    Provider {
        name: "Tigris",
        domains: &["fly.storage.tigris.dev", "t3.storage.dev"],
        endpoints: &["fly.storage.tigris.dev", "t3.storage.dev"],
        region: Some("auto"),
        // Reads from anywhere see what was just written; without it only those of one region do.
        headers: &[("X-Tigris-Consistent", "true")],
        content_md5: false,
        ..PLAIN
    },
    Provider {
        name: "Cloudflare R2",
        domains: &["r2.cloudflarestorage.com"],
        endpoints: &[
            "*.eu.r2.cloudflarestorage.com",
            "*.fedramp.r2.cloudflarestorage.com",
            "*.r2.cloudflarestorage.com",
        ],
        region: Some("auto"),
        // It refuses more at a time for one object.
        concurrency: 2,
        ..PLAIN
    },
    Provider {
        name: "Backblaze B2",
        domains: &["backblazeb2.com"],
        endpoints: &["s3.{region}.backblazeb2.com"],
        path_style: true,
        ..PLAIN
    },
    Provider {
        name: "Filebase",
        domains: &["s3.filebase.com"],
        endpoints: &["s3.filebase.com"],
        region: Some("us-east-1"),
        path_style: true,
        ..PLAIN
    },
    // Its endpoints have a path, so a bucket cannot stand before their host.
    Provider { name: "Supabase", domains: &["supabase.co"], path_style: true, ..PLAIN },
    Provider {
        name: "Hetzner",
        domains: &["your-objectstorage.com"],
        endpoints: &["{region}.your-objectstorage.com"],
        ..PLAIN
    },
    Provider {
        name: "DigitalOcean Spaces",
        domains: &["digitaloceanspaces.com"],
        endpoints: &["{region}.digitaloceanspaces.com"],
        virtual_host: true,
        ..PLAIN
    },
    Provider {
        name: "Scaleway",
        domains: &["scw.cloud"],
        endpoints: &["s3.{region}.scw.cloud"],
        virtual_host: true,
        ..PLAIN
    },
    Provider { name: "Linode", domains: &["linodeobjects.com"], endpoints: &["{region}.linodeobjects.com"], ..PLAIN },
    Provider {
        name: "Wasabi",
        domains: &["wasabisys.com"],
        endpoints: &["s3.{region}.wasabisys.com", "s3.wasabisys.com"],
        ..PLAIN
    },
    Provider {
        name: "OVHcloud",
        domains: &["cloud.ovh.net", "cloud.ovh.us"],
        endpoints: &[
            "s3.{region}.io.cloud.ovh.net",
            "s3.{region}.perf.cloud.ovh.net",
            "s3.{region}.cloud.ovh.net",
            "s3.{region}.io.cloud.ovh.us",
        ],
        ..PLAIN
    },
    Provider {
        name: "Google Cloud Storage (XML)",
        domains: &["storage.googleapis.com", "rep.googleapis.com"],
        endpoints: &["storage.googleapis.com", "storage.{region}.rep.googleapis.com"],
        region: Some("auto"),
        ..PLAIN
    },
];

/// What the host of a URL says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Located {
    /// The bucket; `None` if the host is all endpoint.
    pub bucket: Option<String>,
    /// The region, if it is in the host.
    pub region: Option<String>,
    /// Scheme, host and port; `None` for AWS.
    pub endpoint: Option<String>,
    /// The bucket is to stand in the path.
    pub path_style: bool,
}

/// Takes the host of an `s3://` URL apart.
pub fn locate(host: &str) -> Located {
    if let Some(region) = access_point_region(host) {
        return Located { bucket: Some(host.to_owned()), region: Some(region.to_owned()), ..Located::default() };
    }
    let (name, port) = split_port(host);
    let known = PROVIDERS.iter().find_map(|provider| Some((provider, taken_apart(provider, name)?)));
    match (known, port) {
        (Some((provider, found)), None) if provider.name == AWS => {
            Located { bucket: found.bucket, region: found.region, endpoint: None, path_style: false }
        }
        (Some((provider, found)), port) if provider.name != AWS => Located {
            bucket: found.bucket,
            region: found.region,
            endpoint: Some(format!("https://{}{}", found.host, port.map(|p| format!(":{p}")).unwrap_or_default())),
            path_style: !provider.virtual_host,
        },
        (_, Some(port)) => {
            let scheme = if port == "443" { "https" } else { "http" };
            // An address has dots, but no bucket before them.
            let (bucket, name) = match name.split_once('.').filter(|_| address(name).is_none()) {
                Some((bucket, name)) => (Some(bucket.to_owned()), name),
                None => (None, name),
            };
            Located { bucket, region: None, endpoint: Some(format!("{scheme}://{name}:{port}")), path_style: true }
        }
        _ => match name.strip_suffix("localhost").map(|bucket| bucket.strip_suffix('.')) {
            Some(bucket @ Some(_)) => Located {
                bucket: bucket.map(str::to_owned),
                region: None,
                endpoint: Some("http://localhost".to_owned()),
                path_style: true,
            },
            _ => Located { bucket: Some(host.to_owned()).filter(|host| !host.is_empty()), ..Located::default() },
        },
    }
}

/// The region in the ARN of an access point.
pub fn access_point_region(bucket: &str) -> Option<&str> {
    let mut parts = bucket.strip_prefix("arn:")?.split(':');
    let (_partition, _service, region) = (parts.next()?, parts.next()?, parts.next()?);
    Some(region).filter(|region| !region.is_empty())
}

struct TakenApart {
    bucket: Option<String>,
    region: Option<String>,
    host: String,
}

/// Bucket, region and endpoint, if the host is one of the provider's.
fn taken_apart(provider: &Provider, host: &str) -> Option<TakenApart> {
    let labels: Vec<&str> = host.split('.').collect();
    provider.endpoints.iter().find_map(|endpoint| {
        let wanted: Vec<&str> = endpoint.split('.').collect();
        let bucket_labels = labels.len().checked_sub(wanted.len())?;
        let (bucket, rest) = labels.split_at(bucket_labels);
        let fits = |(wanted, label): (&&str, &&str)| match *wanted {
            "*" | "{region}" => !label.is_empty(),
            wanted => wanted.eq_ignore_ascii_case(label),
        };
        if !wanted.iter().zip(rest).all(fits) {
            return None;
        }
        let region = wanted.iter().position(|wanted| *wanted == "{region}").map(|at| rest[at].to_owned());
        let bucket = Some(bucket.join(".")).filter(|bucket| !bucket.is_empty());
        Some(TakenApart { bucket, region, host: rest.join(".") })
    })
}

/// The service behind an endpoint URL, if it is a known one.
pub fn of_endpoint(endpoint: &str) -> Option<&'static Provider> {
    let host = host_of(endpoint).to_ascii_lowercase();
    let below = |domain: &&str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    PROVIDERS.iter().find(|provider| provider.domains.iter().any(below))
}

/// The region in the host of an endpoint URL.
pub fn region_of_endpoint(endpoint: &str) -> Option<String> {
    taken_apart(of_endpoint(endpoint)?, host_of(endpoint))?.region
}

/// Whether the service behind an endpoint URL is an unknown one at a port, as
/// MinIO and others that people run themselves are.
pub fn is_self_run(endpoint: &str) -> bool {
    let authority = authority_of(endpoint);
    of_endpoint(endpoint).is_none() && split_port(authority).1.is_some()
}

/// Whether the host of an endpoint is this machine or in its own network.
pub fn is_local(endpoint: &str) -> bool {
    let host = host_of(endpoint);
    match address(host) {
        Some(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Some(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        None => host == "localhost" || host.ends_with(".local") || host.ends_with(".localhost"),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// `host:port` of an endpoint, with or without a scheme.
fn authority_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn host_of(endpoint: &str) -> &str {
    split_port(authority_of(endpoint)).0
}

/// Host and port. Colons in brackets belong to an address.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let address_end = host.rfind(']').map_or(0, |at| at + 1);
    match host[address_end..].split_once(':') {
        Some((name, port)) => (&host[..address_end + name.len()], Some(port)),
        None => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bucket, region, endpoint and style, as the table of hosts shows them.
    fn located(host: &str) -> String {
        let Located { bucket, region, endpoint, path_style } = locate(host);
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let style = if path_style { "path" } else { "host" };
        format!("{} {} {} {style}", or(bucket), or(region), or(endpoint))
    }

    #[test]
    fn hosts_of_both_generations_of_litestream_are_taken_apart() {
        let cases = [
            ("b", "b - - host"),
            ("my.bucket.example.org", "my.bucket.example.org - - host"),
            ("b.s3.amazonaws.com", "b - - host"),
            ("b.s3.eu-west-1.amazonaws.com", "b eu-west-1 - host"),
            ("my.dotted.s3.eu-west-1.amazonaws.com", "my.dotted eu-west-1 - host"),
            ("b.nyc3.digitaloceanspaces.com", "b nyc3 https://nyc3.digitaloceanspaces.com host"),
            ("nyc3.digitaloceanspaces.com", "- nyc3 https://nyc3.digitaloceanspaces.com host"),
            ("b.s3.us-west-002.backblazeb2.com", "b us-west-002 https://s3.us-west-002.backblazeb2.com path"),
            ("b.s3.filebase.com", "b - https://s3.filebase.com path"),
            ("s3.filebase.com", "- - https://s3.filebase.com path"),
            ("b.s3.fr-par.scw.cloud", "b fr-par https://s3.fr-par.scw.cloud host"),
            ("b.us-east-1.linodeobjects.com", "b us-east-1 https://us-east-1.linodeobjects.com path"),
            // What people run themselves, with a port.
            ("b.minio:9000", "b - http://minio:9000 path"),
            ("b.minio.internal.example:9000", "b - http://minio.internal.example:9000 path"),
            ("b.minio.example.com:9000", "b - http://minio.example.com:9000 path"),
            ("b.minio.example.com:443", "b - https://minio.example.com:443 path"),
            ("minio:9000", "- - http://minio:9000 path"),
            ("127.0.0.1:9000", "- - http://127.0.0.1:9000 path"),
            ("[::1]:9000", "- - http://[::1]:9000 path"),
            ("b.localhost:9000", "b - http://localhost:9000 path"),
            ("b.localhost", "b - http://localhost path"),
            ("localhost", "localhost - - host"),
            // Ours.
            ("b.fly.storage.tigris.dev", "b - https://fly.storage.tigris.dev path"),
            ("b.0123.r2.cloudflarestorage.com", "b - https://0123.r2.cloudflarestorage.com path"),
            ("b.0123.eu.r2.cloudflarestorage.com", "b - https://0123.eu.r2.cloudflarestorage.com path"),
            ("b.fsn1.your-objectstorage.com", "b fsn1 https://fsn1.your-objectstorage.com path"),
            ("b.s3.eu-central-1.wasabisys.com", "b eu-central-1 https://s3.eu-central-1.wasabisys.com path"),
            ("b.s3.wasabisys.com", "b - https://s3.wasabisys.com path"),
            ("b.s3.gra.io.cloud.ovh.net", "b gra https://s3.gra.io.cloud.ovh.net path"),
            ("b.storage.googleapis.com", "b - https://storage.googleapis.com path"),
            ("b.s3.us-west-002.backblazeb2.com:8443", "b us-west-002 https://s3.us-west-002.backblazeb2.com:8443 path"),
        ];
        for (host, expected) in cases {
            assert_eq!(located(host), expected, "{host}");
        }
    }

    #[test]
    fn an_access_point_names_its_region() {
        let arn = "arn:aws:s3:eu-west-1:123:accesspoint/name";
        assert_eq!(located(arn), format!("{arn} eu-west-1 - host"));
        assert_eq!(access_point_region("bucket"), None);
        assert_eq!(access_point_region("arn:aws:s3::123:accesspoint/x.mrap"), None);
    }

    #[test]
    fn providers_are_known_by_their_endpoint() {
        let cases = [
            ("https://fly.storage.tigris.dev", Some("Tigris")),
            ("https://t3.storage.dev", Some("Tigris")),
            ("https://0123.r2.cloudflarestorage.com", Some("Cloudflare R2")),
            ("https://s3.us-west-002.backblazeb2.com", Some("Backblaze B2")),
            ("https://s3.filebase.com/", Some("Filebase")),
            ("https://project.storage.supabase.co/storage/v1/s3", Some("Supabase")),
            ("https://FSN1.your-objectstorage.com", Some("Hetzner")),
            ("https://nyc3.digitaloceanspaces.com", Some("DigitalOcean Spaces")),
            ("https://b.nyc3.digitaloceanspaces.com", Some("DigitalOcean Spaces")),
            ("https://s3.fr-par.scw.cloud:443", Some("Scaleway")),
            ("https://storage.googleapis.com", Some("Google Cloud Storage (XML)")),
            ("https://s3.eu-west-1.amazonaws.com", Some("AWS")),
            ("https://notscw.cloud", None),
            ("http://localhost:9000", None),
        ];
        for (endpoint, name) in cases {
            assert_eq!(of_endpoint(endpoint).map(|provider| provider.name), name, "{endpoint}");
        }
        assert_eq!(region_of_endpoint("https://s3.fr-par.scw.cloud:443").as_deref(), Some("fr-par"));
        assert_eq!(region_of_endpoint("https://s3.filebase.com"), None);
        assert_eq!(region_of_endpoint("http://localhost:9000"), None);
        assert!(is_self_run("http://localhost:9000"));
        assert!(is_self_run("https://minio.example.com:9000/x"));
        assert!(!is_self_run("https://minio.example.com"));
        assert!(!is_self_run("https://s3.fr-par.scw.cloud:443"));
    }

    #[test]
    fn every_endpoint_of_the_table_is_its_providers_own() {
        for provider in PROVIDERS {
            for endpoint in provider.endpoints {
                let host = endpoint.replace('*', "a").replace("{region}", "r");
                assert_eq!(of_endpoint(&host), Some(provider), "{host}");
                assert_eq!(locate(&format!("b.{host}")).bucket.as_deref(), Some("b"), "{host}");
            }
        }
    }

    #[test]
    fn one_knows_what_is_near() {
        for near in [
            "http://localhost:1",
            "127.0.0.1",
            "10.1.2.3:9000",
            "192.168.0.1",
            "172.16.0.1",
            "172.31.255.1",
            "nas.local",
            "x.localhost",
            "[::1]:9000",
        ] {
            assert!(is_local(near), "{near}");
        }
        for far in ["example.com", "172.32.0.1", "8.8.8.8", "11.0.0.1", "localhost.example.com", "[2001:db8::1]:9000"] {
            assert!(!is_local(far), "{far}");
        }
    }
}
