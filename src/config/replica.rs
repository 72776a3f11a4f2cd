//! The replicas of a database: of which type, where, under which name. Pure.
//!
//! The rules about which keys belong together are checked for every type that
//! Litestream knows; types that are not built are named when they are used.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::Warning;
use super::database::Entry;
use super::env::Environment;
use super::error::Error;
use super::global::positive;
use super::paths::absolute;
use super::s3::{self, S3Settings};
use super::section::Section;
use super::upkeep::{Upkeep, upkeep};
use super::url::{ReplicaUrl, shown};
use crate::types::Secret;

/// The settings of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Distinct among the replicas of a database.
    pub name: String,
    /// What keeps the bytes, and where.
    pub backend: Backend,
    /// How often what is captured is uploaded.
    pub sync_interval: Duration,
    /// How pages are packed.
    pub ltx_encoding: LtxEncoding,
    /// Bytes that may be uploaded in a second; `None`: as many as the line carries.
    pub max_upload_rate: Option<NonZeroU64>,
    /// The credentials may create and read, and neither list nor remove.
    pub create_only: bool,
    /// When snapshots are made and how long they are kept.
    pub snapshots: Snapshots,
    /// How they are merged, and what else is kept.
    pub upkeep: Upkeep,
    /// Which age keys there are.
    pub age: Age,
}

/// The age keys of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Age {
    /// They open what Litestream 0.3 encrypted.
    pub identities: Vec<Secret>,
    /// What is written is to be encrypted.
    pub encrypts: bool,
}

/// What keeps a replica's bytes, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A directory.
    File {
        /// Where the data is or will be, the place Litestream uses first. More
        /// than one where a URL has escapes: use the first that exists, or else
        /// create the first.
        directories: Vec<PathBuf>,
    },
    /// A bucket.
    S3(Box<S3Settings>),
    /// A type that Litestream knows and this build does not.
    NotBuilt {
        /// The type.
        kind: BackendKind,
        /// The URL, if one was given.
        url: Option<ReplicaUrl>,
    },
}

impl Backend {
    /// The type.
    pub fn kind(&self) -> BackendKind {
        match self {
            Self::File { .. } => BackendKind::File,
            Self::S3(_) => BackendKind::S3,
            Self::NotBuilt { kind, .. } => *kind,
        }
    }

    /// What asks for fewer requests when there are too many: the replicas of one
    /// service have one name.
    pub fn service(&self) -> String {
        match self {
            Self::S3(settings) => settings.service(),
            _ => self.location(),
        }
    }

    /// Where it is, for people.
    pub fn location(&self) -> String {
        match self {
            Self::File { directories } => {
                directories.first().map_or_else(String::new, |path| path.display().to_string())
            }
            Self::S3(settings) => settings.location(),
            Self::NotBuilt { kind, .. } => kind.name().to_owned(),
        }
    }
}

/// The types of replicas that Litestream knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// A directory.
    File,
    /// S3 and compatibles.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Abs,
    /// A directory on an SSH server.
    Sftp,
    /// A directory on a web server.
    Webdav,
    /// A JetStream object store.
    Nats,
    /// Alibaba Cloud OSS.
    Oss,
}

impl BackendKind {
    /// The type of that name; `gcs` is the old name of `gs`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "file" => Some(Self::File),
            "s3" => Some(Self::S3),
            "gs" | "gcs" => Some(Self::Gs),
            "abs" => Some(Self::Abs),
            "sftp" => Some(Self::Sftp),
            "webdav" => Some(Self::Webdav),
            "nats" => Some(Self::Nats),
            "oss" => Some(Self::Oss),
            _ => None,
        }
    }

    /// The name in configs, tables and URLs.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Abs => "abs",
            Self::Sftp => "sftp",
            Self::Webdav => "webdav",
            Self::Nats => "nats",
            Self::Oss => "oss",
        }
    }
}

/// How pages are packed in segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LtxEncoding {
    /// LZ4 blocks: what Litestream writes since 0.5.16.
    #[default]
    Block,
    /// LZ4 frames, for replicas that an older Litestream must read.
    Frame,
}

/// When snapshots are made and how long they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// A new one at least this often.
    pub interval: Duration,
    /// How long one is kept.
    pub retention: Duration,
}

impl Default for Snapshots {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { interval: DAY, retention: DAY }
    }
}

impl ReplicaSettings {
    /// A replica given by its URL alone.
    pub fn from_url(text: &str, environment: &Environment, warnings: &mut Vec<Warning>) -> Result<Self, Error> {
        let url = ReplicaUrl::parse(text)?;
        let section = Section::none();
        requirements(url.kind, Some(&url), section, section)?;
        let name = url.kind.name().to_owned();
        let backend = match url.kind {
            BackendKind::File => Backend::File { directories: file_directories(&url)? },
            BackendKind::S3 => {
                let asked = s3::Asked { section, global: section, url: Some(&url), environment };
                Backend::S3(Box::new(s3::settings(&asked, warnings)?))
            }
            kind => Backend::NotBuilt { kind, url: Some(url) },
        };
        Ok(Self {
            name,
            backend,
            sync_interval: Duration::from_secs(1),
            ltx_encoding: LtxEncoding::default(),
            max_upload_rate: None,
            create_only: false,
            snapshots: Snapshots::default(),
            upkeep: Upkeep::default(),
            age: Age::default(),
        })
    }

    /// Whether this build can write to the replica as its owner expects. Reading
    /// what Litestream 0.3 encrypted is possible in any case.
    pub fn writable(&self) -> Result<(), Error> {
        self.built()?;
        match self.age.encrypts {
            false => Ok(()),
            true => Err(Error::invalid(
                "age encryption is not currently supported: remove the \"age\" section, or stay on Litestream v0.3.x",
            )),
        }
    }

    /// Whether this build can work with the replica.
    pub fn built(&self) -> Result<(), Error> {
        match &self.backend {
            Backend::File { .. } | Backend::S3(_) => Ok(()),
            Backend::NotBuilt { kind, .. } => Err(Error::NotBuilt {
                reason: format!(
                    "replica type {:?} is not available in this build: use type \"file\" or \"s3\"",
                    kind.name()
                ),
            }),
        }
    }
}

/// The replicas of a database, under either key.
pub(crate) fn build_all(entry: &Entry<'_>, warnings: &mut Vec<Warning>) -> Result<Vec<ReplicaSettings>, Error> {
    let single = entry.section.sections("replica").unwrap_or_default();
    let single: Vec<_> = single.into_iter().filter(|replica| replica.exists()).collect();
    let several = entry.section.sections("replicas").unwrap_or_default();
    let sections = match (single.as_slice(), several.as_slice()) {
        ([], []) => return Err(Error::invalid("must specify replica for database")),
        ([_, ..], [_, ..]) => return Err(Error::invalid("cannot specify 'replica' and 'replicas' on a database")),
        ([_, _, ..], _) => {
            return Err(Error::invalid("'replica' takes one replica: please use 'replicas' for several"));
        }
        ([_], []) => single,
        ([], _) => several,
    };
    let built = sections.into_iter().map(|section| {
        let name = section.text("name").map(str::to_owned);
        Ok((name, build(section, entry, warnings)?))
    });
    with_names(built.collect::<Result<_, Error>>()?)
}

/// Gives each replica its own name, or that of its type, numbered if taken.
pub(crate) fn with_names(replicas: Vec<(Option<String>, ReplicaSettings)>) -> Result<Vec<ReplicaSettings>, Error> {
    let mut taken: Vec<String> = Vec::new();
    for name in replicas.iter().filter_map(|(name, _)| name.clone()) {
        if taken.contains(&name) {
            return Err(Error::invalid(format!("duplicate replica name: {name:?}")));
        }
        taken.push(name);
    }
    let named = replicas.into_iter().map(|(name, mut replica)| {
        replica.name = name.unwrap_or_else(|| {
            let kind = replica.backend.kind().name();
            let numbered = (2..).map(|n| format!("{kind}-{n}"));
            let name = [kind.to_owned()].into_iter().chain(numbered).find(|name| !taken.contains(name));
            let name = name.expect("there are more numbers than names taken");
            taken.push(name.clone());
            name
        });
        replica
    });
    Ok(named.collect())
}

fn build(section: Section<'_>, entry: &Entry<'_>, warnings: &mut Vec<Warning>) -> Result<ReplicaSettings, Error> {
    let global = entry.global;
    let path = section.text("path");
    if let Some(path) = path.filter(|path| path.contains("://")) {
        let text = format!("replica path cannot be a url, please use the 'url' field instead: {}", shown(path));
        return Err(Error::invalid(text));
    }
    let url = section.text("url").map(ReplicaUrl::parse).transpose()?;
    let kind = match (&url, section.text("type")) {
        (Some(url), _) => url.kind,
        (None, None) => BackendKind::File,
        (None, Some(name)) => BackendKind::from_name(name)
            .ok_or_else(|| Error::invalid(format!("unknown replica type in config: {name:?}")))?,
    };
    requirements(kind, url.as_ref(), section, global)?;
    let backend = match (kind, &url, path) {
        (BackendKind::File, Some(url), _) => Backend::File { directories: file_directories(url)? },
        (BackendKind::File, None, Some(path)) => {
            Backend::File { directories: vec![absolute(Path::new(path), entry.environment)] }
        }
        (BackendKind::File, None, None) => return Err(Error::invalid("file replica path required")),
        (BackendKind::S3, url, _) => {
            let asked = s3::Asked { section, global, url: url.as_ref(), environment: entry.environment };
            Backend::S3(Box::new(s3::settings(&asked, warnings)?))
        }
        (kind, _, _) => Backend::NotBuilt { kind, url },
    };
    let sync_interval = section.duration("sync-interval").or_else(|| global.duration("sync-interval"));
    Ok(ReplicaSettings {
        name: String::new(),
        backend,
        sync_interval: positive(sync_interval).unwrap_or(Duration::from_secs(1)),
        ltx_encoding: ltx_encoding(section.text("ltx-encoding").or_else(|| global.text("ltx-encoding")))?,
        // 0 takes a global limit away.
        max_upload_rate: section
            .size("max-upload-rate")
            .or_else(|| global.size("max-upload-rate"))
            .and_then(NonZeroU64::new),
        create_only: section.bool("create-only").or_else(|| global.bool("create-only")).unwrap_or(false),
        snapshots: snapshots(section, entry),
        upkeep: upkeep(section, entry)?,
        age: age(section, global),
    })
}

/// The replica's own section, else the global one.
fn age(section: Section<'_>, global: Section<'_>) -> Age {
    let own = section.section("age");
    let age = if own.asks_for_encryption() { own } else { global.section("age") };
    Age { identities: age.secrets("identities"), encrypts: age.asks_for_encryption() }
}

fn file_directories(url: &ReplicaUrl) -> Result<Vec<PathBuf>, Error> {
    match url.path.as_str() {
        "/" => Err(Error::invalid("file replica path required")),
        _ => Ok(url.directories()),
    }
}

fn ltx_encoding(name: Option<&str>) -> Result<LtxEncoding, Error> {
    match name {
        None | Some("block") => Ok(LtxEncoding::Block),
        Some("frame") => Ok(LtxEncoding::Frame),
        Some(other) => Err(Error::field("ltx-encoding", "must be block or frame", other)),
    }
}

/// The database's own `snapshot` keys, else the global ones, else the ones that
/// Litestream 0.3 had on the replica.
fn snapshots(section: Section<'_>, entry: &Entry<'_>) -> Snapshots {
    let choose = |key: &str, old_key: &str| {
        let of_database = entry.section.section("snapshot").duration(key);
        let global = || entry.global.section("snapshot").duration(key);
        let old = || section.duration(old_key).filter(|nanos| *nanos > 0);
        positive(of_database.or_else(global).or_else(old))
    };
    let defaults = Snapshots::default();
    Snapshots {
        interval: choose("interval", "snapshot-interval").unwrap_or(defaults.interval),
        retention: choose("retention", "retention").unwrap_or(defaults.retention),
    }
}

/// Which keys a type needs, and which do not go with a URL. Global defaults fill
/// in what is needed, but do not conflict with a replica's own URL.
fn requirements(
    kind: BackendKind,
    url: Option<&ReplicaUrl>,
    section: Section<'_>,
    global: Section<'_>,
) -> Result<(), Error> {
    let type_name = kind.name();
    let own = |key: &str| section.text(key).is_some();
    let filled = |key: &str| own(key) || global.text(key).is_some();
    let conflict = |key: &str| match url.is_some() && own(key) {
        true => Err(Error::invalid(format!("cannot specify url & {key} for {type_name} replica"))),
        false => Ok(()),
    };
    let required = |have: bool, what: &str| match have {
        true => Ok(()),
        false => Err(Error::invalid(format!("{what} required for {type_name} replica"))),
    };
    let has_host = url.is_some_and(|url| !url.host.is_empty());
    if kind != BackendKind::Nats {
        conflict("path")?;
    }
    match kind {
        BackendKind::File => Ok(()),
        BackendKind::S3 | BackendKind::Gs | BackendKind::Abs | BackendKind::Oss => {
            conflict("bucket")?;
            required(has_host || (url.is_none() && filled("bucket")), "bucket")
        }
        BackendKind::Sftp => {
            conflict("host")?;
            required(has_host || (url.is_none() && filled("host")), "host")?;
            required(filled("user") || url.is_some_and(|url| url.user.is_some()), "user")
        }
        BackendKind::Webdav => {
            conflict("webdav-url")?;
            required(has_host || (url.is_none() && filled("webdav-url")), "webdav-url")
        }
        BackendKind::Nats => {
            let in_url = url.is_some_and(|url| !matches!(url.path.as_str(), "" | "."));
            if !in_url && !filled("bucket") {
                return Err(Error::invalid("bucket required for NATS replica"));
            }
            if filled("client-cert") != filled("client-key") {
                let text = "client-cert and client-key must both be specified for mutual TLS authentication";
                return Err(Error::invalid(text));
            }
            Ok(())
        }
    }
}
