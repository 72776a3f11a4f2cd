//! `pin`: keep a point of the history restorable, whatever retention says.
//!
//! A pin is an object on the replica, so it also holds for daemons and prunes on
//! other machines. It is only left there if the point could be restored after it
//! was written.

use serde::Serialize;

use super::error::CliError;
use super::open;
use super::render::{self, Table, seconds};
use super::{Context, PinAction, PinOptions};
use crate::replica::{Pin, PinName, Replica};
use crate::restore::{Target, survey};

/// Lists, sets or releases pins.
pub(crate) fn run(options: &PinOptions, context: &Context) -> Result<(), CliError> {
    let subject = context.subject(&options.source, &options.config)?;
    context.start_log_beside_listing(&subject.warnings)?;
    let replicas = open::replicas(&subject, options.replica.as_deref(), &options.source)?;
    let runtime = super::runtime()?;
    match &options.action {
        PinAction::List => {
            let mut rows = Vec::new();
            for replica in &replicas {
                let pins = runtime.block_on(replica.pins()).map_err(CliError::failed)?;
                rows.extend(pins.iter().map(|pin| Row::new(replica, pin)));
            }
            show(rows, options.json)
        }
        PinAction::Set { name, target } => {
            if replicas.len() > 1 && matches!(target, Target::Txid(_)) {
                let names: Vec<&str> = replicas.iter().map(Replica::name).collect();
                let message = format!("each replica counts its own transactions: choose one of {}", names.join(", "));
                return Err(CliError::usage(format!("{message} with -replica")));
            }
            let mut rows = Vec::new();
            for replica in &replicas {
                let pin = runtime.block_on(set(replica, name, *target))?;
                rows.push(Row::new(replica, &pin));
            }
            show(rows, options.json)
        }
        PinAction::Release { name } => {
            let mut found = false;
            for replica in &replicas {
                let pins = runtime.block_on(replica.pins()).map_err(CliError::failed)?;
                if pins.iter().any(|pin| pin.name == *name) {
                    runtime.block_on(replica.remove_pin(name)).map_err(CliError::failed)?;
                    found = true;
                }
            }
            if found { Ok(()) } else { Err(CliError::usage(format!("there is no pin named {name}"))) }
        }
    }
}

async fn set(replica: &Replica, name: &PinName, target: Target) -> Result<Pin, CliError> {
    let replicas = std::slice::from_ref(replica);
    let found = survey(replicas, target).await.map_err(CliError::failed)?;
    let [candidate, ..] = found.as_slice() else { return Err(CliError::usage("there is nothing to pin")) };
    let pin = Pin { name: name.clone(), txid: candidate.plan.end(), time: candidate.time };
    let taken = replica.pins().await.map_err(CliError::failed)?.into_iter().find(|pin| pin.name == *name);
    match taken {
        Some(taken) if taken == pin => return Ok(pin),
        Some(taken) => {
            let message =
                format!("the name {name} is taken by transaction {}: release it or choose another", taken.txid);
            return Err(CliError::usage(message));
        }
        None => replica.put_pin(&pin).await.map_err(CliError::failed)?,
    }
    // Whoever deletes looks for pins first; what was deleted before they could see this one shows now.
    if let Err(error) = survey(replicas, Target::Txid(pin.txid)).await {
        replica.remove_pin(name).await.map_err(CliError::failed)?;
        return Err(CliError::failed(error));
    }
    Ok(pin)
}

#[derive(Serialize)]
struct Row {
    replica: String,
    name: String,
    txid: String,
    timestamp: String,
}

impl Row {
    fn new(replica: &Replica, pin: &Pin) -> Self {
        Self {
            replica: replica.name().to_owned(),
            name: pin.name.to_string(),
            txid: pin.txid.to_string(),
            timestamp: seconds(pin.time),
        }
    }
}

fn show(rows: Vec<Row>, json: bool) -> Result<(), CliError> {
    if json {
        return render::print(&render::json(&rows)?);
    }
    let mut table = Table::new(["replica", "name", "txid", "timestamp"]);
    for Row { replica, name, txid, timestamp } in rows {
        table.row([replica, name, txid, timestamp]);
    }
    render::print(&table.text())
}
