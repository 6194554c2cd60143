//! What bootstrap asks of the target of a move: to begin, to end, to complete.

use sherd_engine::Command;
use sherd_node::Responder;
use sherd_protocol::message::{ShardAnswer, TargetOperation};
use sherd_protocol::{WireError, name};

use super::control::submit;
use super::scan::check_range;
use crate::receiver::Job;
use crate::refusal::refusal;
use crate::shard::Shard;

pub(crate) fn target(shard: &Shard, operation: &TargetOperation<'_>, responder: Responder) {
    match operation {
        TargetOperation::Receive(receive) => {
            let checked = name::check_label("id", receive.id)
                .map_err(|error| WireError::bad_request("id", error))
                .and_then(|()| check_range(receive.range));
            if let Err(error) = checked {
                return responder.refuse(&error);
            }
            let job = Job {
                id: receive.id.to_owned(),
                range: receive.range,
                from: receive.from.to_owned(),
                rate: receive.rate,
            };
            let ranges = vec![(job.range.start, job.range.end)];
            let command = Command::Receive { id: job.id.clone(), ranges };
            let receiver = shard.receiver.clone();
            let done = move |result: sherd_engine::Result<_>| match result {
                Ok(_) => {
                    receiver.take_on(job);
                    responder.send(&ShardAnswer::Done);
                }
                Err(error) => responder.refuse(&refusal(error, "")),
            };
            shard.engine.submit(command, Box::new(done));
        }
        TargetOperation::Stop(id) => {
            shard.receiver.stop(id.id);
            submit(shard, Command::StopReceiving { id: id.id.to_owned() }, responder);
        }
        TargetOperation::Complete(id) => shard.receiver.complete(id.id, responder),
    }
}
