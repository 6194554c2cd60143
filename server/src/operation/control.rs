//! What the control role asks: assignment, lock, catalogue and size. Each is durable before it is
//! answered.

use std::sync::Arc;

use sherd_engine::Command;
use sherd_node::{Responder, blocking, is_held_at};
use sherd_protocol::message::{
    Assignment, DropIndex, Frozen, Index, Lock, SetShare, SetSize, ShardAnswer,
};
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{WireError, name};

use super::settings;
use crate::refusal::refusal;
use crate::shard::Shard;

pub(crate) fn assign(shard: &Shard, assignment: Assignment, responder: Responder) {
    if let Err(error) = check_assignment(&assignment) {
        return responder.refuse(&error);
    }
    let gives_up = assignment.gives_up;
    let ranges = assignment.ranges.iter().map(|range| (range.start, range.end)).collect();
    let assignment = sherd_engine::Assignment {
        cluster: assignment.cluster,
        name: assignment.name,
        hash_method: assignment.hash_method.to_string(),
        epoch: assignment.epoch,
        lineage: assignment.lineage,
        ranges,
        limit: assignment.size,
        policy: settings::policy(assignment.policy),
    };
    let Some(Frozen { id, lsn }) = gives_up else {
        let (found_at, runtime) = (Arc::clone(&shard.found_at), shard.runtime.clone());
        let done = move |result: sherd_engine::Result<_>| match result {
            Ok(_) => {
                if found_at.is_new() {
                    runtime.spawn(blocking(move || found_at.note()));
                }
                responder.send(&ShardAnswer::Done);
            }
            Err(error) => responder.refuse(&refusal(error, "")),
        };
        return shard.engine.submit(Command::Assign(assignment), Box::new(done));
    };
    let command = Command::GiveUp { assignment, id, frozen_at: lsn };
    let done = move |result: sherd_engine::Result<_>| match result {
        // Never answered.
        Ok(_) if is_held_at("source given up") => std::mem::forget(responder),
        Ok(_) => responder.send(&ShardAnswer::Done),
        Err(error) => responder.refuse(&refusal(error, "")),
    };
    shard.engine.submit(command, Box::new(done));
}

pub(crate) fn lock(shard: &Shard, lock: Lock<'_>, responder: Responder) {
    match name::check_label("owner", lock.owner) {
        Ok(()) => submit(shard, Command::Lock { owner: lock.owner.to_owned() }, responder),
        Err(error) => responder.refuse(&WireError::bad_request("owner", error)),
    }
}

pub(crate) fn release(shard: &Shard, lock: Lock<'_>, responder: Responder) {
    match name::check_label("owner", lock.owner) {
        Ok(()) => submit(shard, Command::Release { owner: lock.owner.to_owned() }, responder),
        Err(error) => responder.refuse(&WireError::bad_request("owner", error)),
    }
}

pub(crate) fn create_index(shard: &Shard, index: Index, responder: Responder) {
    match name::check_index(&index.name) {
        Ok(()) => {
            let Index { id, name, settings } = index;
            let settings = settings::to_engine(&settings);
            submit(shard, Command::CreateIndex { id, name, settings }, responder);
        }
        Err(error) => responder.refuse(&WireError::bad_request("name", error)),
    }
}

/// The id says which, as for a drop.
pub(crate) fn set_index(shard: &Shard, set: SetShare<'_>, responder: Responder) {
    let SetShare { id, name, settings, force } = set;
    let settings = settings::to_engine(&settings);
    submit_of(shard, name, Command::SetIndex { id, settings, force }, responder);
}

/// The id says which: an index created anew under the name is another one.
pub(crate) fn drop_index(shard: &Shard, index: DropIndex<'_>, responder: Responder) {
    submit(shard, Command::DropIndex { id: index.id }, responder);
}

pub(crate) fn set_size(shard: &Shard, set: SetSize, responder: Responder) {
    let policy = set.policy.map(settings::policy);
    submit(shard, Command::SetLimit { limit: set.size, policy }, responder);
}

pub(super) fn submit(shard: &Shard, command: Command, responder: Responder) {
    submit_of(shard, "", command, responder);
}

/// Submits a command that is about the index of that name.
fn submit_of(shard: &Shard, index: &str, command: Command, responder: Responder) {
    let index = index.to_owned();
    let done = move |result: sherd_engine::Result<_>| match result {
        Ok(_) => responder.send(&ShardAnswer::Done),
        Err(error) => responder.refuse(&refusal(error, &index)),
    };
    shard.engine.submit(command, Box::new(done));
}

fn check_assignment(assignment: &Assignment) -> Result<(), WireError> {
    let label = |field: &'static str, label: &str| {
        name::check_label(field, label).map_err(|error| WireError::bad_request(field, error))
    };
    label("cluster", &assignment.cluster)?;
    label("name", &assignment.name)?;
    if assignment.epoch == 0 {
        return Err(WireError::bad_request("epoch", "a map's epoch is 1 at least"));
    }
    let mut free_from = 0;
    for (i, range) in assignment.ranges.iter().enumerate() {
        if range.start < free_from || range.end <= range.start || range.end > RING_SIZE {
            return Err(WireError::bad_request(
                &format!("ranges[{i}]"),
                format!(
                    "[{}, {}) is empty, not after the one before, or ends beyond {RING_SIZE}",
                    range.start, range.end
                ),
            ));
        }
        free_from = range.end;
    }
    Ok(())
}
