//! From the arguments of a command to the settings it works with: reading the
//! config, finding the database or replica that was named, starting the log.

use std::path::Path;

use super::error::CliError;
use super::log;
use super::options::{ConfigFlags, Source};
use super::render;
use crate::config::{self, Config, Database, Environment, Logging, ReplicaSettings, Warning, WarningKind};

/// What every command knows about the way it was called.
#[derive(Clone, Debug)]
pub struct Context {
    /// The program's name as it was called, for messages: `brooklet`, or `litestream`.
    pub program: String,
}

/// What a [`Source`] turned out to be.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The database, if one was named.
    pub database: Option<Database>,
    /// Its replicas, or the one replica that was named; never empty.
    pub replicas: Vec<ReplicaSettings>,
    /// How the config wants to log; the default if none was read.
    pub logging: Logging,
    /// What is odd about the config; logged by [`Context::start_log`].
    pub warnings: Vec<Warning>,
}

impl Subject {
    /// The replicas with that name or of that type, or all without a name.
    pub fn named<'a>(&'a self, name: Option<&'a str>) -> impl Iterator<Item = &'a ReplicaSettings> {
        let matches = move |replica: &&ReplicaSettings| {
            name.is_none_or(|name| replica.name == name || replica.backend.kind().name() == name)
        };
        self.replicas.iter().filter(matches)
    }
}

impl From<config::Error> for CliError {
    fn from(error: config::Error) -> Self {
        Self::failed(error)
    }
}

impl Context {
    /// The surroundings of this process.
    pub fn environment(&self) -> Result<Environment, CliError> {
        Environment::of_process()
            .map_err(|error| CliError::failed(format!("cannot tell the working directory: {error}")))
    }

    /// The config that the flags name.
    pub fn config(&self, flags: &ConfigFlags) -> Result<Config, CliError> {
        Ok(Config::load(flags.path.as_deref(), flags.expand_env, &self.environment()?)?)
    }

    /// The database of the config, or the replica, that an argument names.
    pub fn subject(&self, source: &Source, flags: &ConfigFlags) -> Result<Subject, CliError> {
        match source {
            Source::Url(url) => {
                let mut warnings = Vec::new();
                let replicas = vec![ReplicaSettings::from_url(url, &self.environment()?, &mut warnings)?];
                Ok(Subject { database: None, replicas, logging: Logging::default(), warnings })
            }
            Source::Database(path) => self.configured(path, self.config(flags)?),
        }
    }

    fn configured(&self, path: &Path, config: Config) -> Result<Subject, CliError> {
        let database = config.database(path, &self.environment()?)?;
        let replicas = database.replicas.clone();
        Ok(Subject { database: Some(database), replicas, logging: config.logging, warnings: config.warnings })
    }

    /// Starts logging as the config, `LOG_LEVEL` and the `-log-level` flag want it,
    /// and logs what is odd about the config.
    pub fn start_log(&self, logging: Logging, level: Option<&str>, warnings: &[Warning]) -> Result<(), CliError> {
        let (logging, complaint) = log::choose(logging, level, &self.environment()?);
        log::start(logging);
        if let Some(complaint) = complaint {
            tracing::warn!("{complaint}");
        }
        for warning in warnings {
            tracing::warn!("{}", warning.text);
        }
        Ok(())
    }

    /// For commands whose output is a listing: stdout is for the listing alone.
    /// Keys without effect concern the daemon and are not mentioned.
    pub fn start_log_beside_listing(&self, warnings: &[Warning]) -> Result<(), CliError> {
        let logging = Logging { stderr: true, ..Logging::default() };
        self.start_log(logging, None, &[])?;
        for warning in warnings.iter().filter(|warning| warning.kind != WarningKind::NoEffect) {
            render::complain(&format!("Warning: {}", warning.text));
        }
        Ok(())
    }
}
