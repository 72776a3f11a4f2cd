//! `doctor`: whether the storages that are configured do what is needed of them.
//!
//! Prints what it found also when something failed: the table is the message.

use serde::Serialize;

use super::error::CliError;
use super::open;
use super::render::{self, Table};
use super::{Context, DoctorOptions, Source};
use crate::config::{Backend, Config, Database, ReplicaSettings, Warning};
use crate::doctor::{self, Finding, Probe, Step, Verdict};
use crate::storage::s3::Options;

/// The smallest that S3 allows.
const SMALLEST_PARTS: u64 = 5 * 1024 * 1024;

/// Tries the replicas of one database, of one URL, or of the whole config.
pub(crate) fn run(options: &DoctorOptions, context: &Context) -> Result<(), CliError> {
    let (patients, warnings) = patients(options, context)?;
    context.start_log_beside_listing(&warnings)?;
    let runtime = super::runtime()?;
    let mut rows = Vec::new();
    for patient in &patients {
        let findings = runtime.block_on(examine(&patient.replica, options.deep))?;
        if !options.json {
            render::print(&patient.text(&findings))?;
        }
        rows.extend(findings.into_iter().map(|finding| patient.row(finding)));
    }
    if options.json {
        render::print(&render::json(&rows)?)?;
    }
    match rows.iter().filter(|row| row.finding.result == Verdict::Failed).count() {
        0 => Ok(()),
        failed => Err(CliError::failed(format!("{failed} of {} checks failed", rows.len()))),
    }
}

/// A replica, and the database it belongs to if the config names one.
struct Patient {
    database: Option<String>,
    replica: ReplicaSettings,
}

fn patients(options: &DoctorOptions, context: &Context) -> Result<(Vec<Patient>, Vec<Warning>), CliError> {
    let of_database = |database: &Database| {
        let path = database.path.display().to_string();
        let of_replica =
            move |replica: &ReplicaSettings| Patient { database: Some(path.clone()), replica: replica.clone() };
        database.replicas.iter().map(of_replica).collect::<Vec<_>>()
    };
    let (mut patients, warnings) = match &options.source {
        None => {
            let config: Config = context.config(&options.config)?;
            (super::directories::databases(&config)?.iter().flat_map(of_database).collect::<Vec<_>>(), config.warnings)
        }
        Some(source) => {
            let subject = context.subject(source, &options.config)?;
            let patients = match (&subject.database, source) {
                (Some(database), Source::Database(_)) => of_database(database),
                _ => subject.replicas.iter().map(|r| Patient { database: None, replica: r.clone() }).collect(),
            };
            (patients, subject.warnings)
        }
    };
    if let Some(name) = &options.replica {
        patients.retain(|patient| {
            let ReplicaSettings { name: own, backend, .. } = &patient.replica;
            own == name || backend.kind().name() == name
        });
    }
    match (patients.is_empty(), &options.replica) {
        (false, _) => Ok((patients, warnings)),
        (true, Some(name)) => Err(CliError::usage(format!("there is no replica {name:?}"))),
        (true, None) => Err(CliError::usage("no databases specified in configuration")),
    }
}

/// Everything that can be found out about one replica.
async fn examine(settings: &ReplicaSettings, deep: bool) -> Result<Vec<Finding>, CliError> {
    let place = open::place(settings)?;
    let mut findings = Vec::new();
    let mut in_parts = None;
    if let Backend::S3(s3) = &settings.backend {
        let options = open::s3_options(s3)?;
        findings.extend(doctor::remarks(&options));
        if deep {
            let options = Options { part_size: SMALLEST_PARTS, ..options };
            in_parts = Some(open::s3_storage(options, s3.conditional_writes));
        }
        if !s3.conditional_writes {
            findings.push(doctor::without_conditions());
        }
    }
    let probe = Probe { storage: place.storage, in_parts, folder: place.root, create_only: settings.create_only };
    let facts = probe.run().await;
    findings.extend(doctor::judge(&facts));
    if facts.list == Step::Done(()) {
        let listing = open::replica(settings)?.list_all().await.map_err(CliError::failed)?;
        findings.push(doctor::usage(&listing, std::time::SystemTime::now().into()).finding());
    }
    Ok(findings)
}

#[derive(Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    db: Option<String>,
    replica: String,
    location: String,
    #[serde(flatten)]
    finding: Finding,
}

impl Patient {
    fn row(&self, finding: Finding) -> Row {
        let location = self.replica.backend.location();
        Row { db: self.database.clone(), replica: self.replica.name.clone(), location, finding }
    }

    fn text(&self, findings: &[Finding]) -> String {
        let mut table = Table::new(["check", "result", "found"]);
        for Finding { check, result, found, advice } in findings {
            let advice = advice.as_ref().map(|advice| format!(": {advice}")).unwrap_or_default();
            table.row([(*check).to_owned(), result.name().to_owned(), format!("{found}{advice}")]);
        }
        let database = self.database.as_ref().map(|path| format!(" of {path}")).unwrap_or_default();
        let (name, location) = (&self.replica.name, self.replica.backend.location());
        format!("replica {name}{database} in {location}\n{}\n", table.text())
    }
}
