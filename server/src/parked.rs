//! Changes in a range that is frozen, on its way to another shard: they wait here for the moment that it
//! takes, and are looked at again as soon as the range is frozen no more. Then most of them hear who owns
//! the range, and none had to ask again and again.
//!
//! They wait only for [`PATIENCE`]: whoever does not hear of a change that was sent cannot know what became
//! of it, and is told in time that nothing did.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sherd_node::Responder;
use sherd_protocol::message::{Mutation, ShardOperation};
use tokio::time::{Instant, sleep};

use crate::shard::{Service, Shard};

/// For how long a change waits before it is refused.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is looked whether the range is frozen still.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How many changes wait at most; more are refused at once.
const MOST: usize = 2048;

/// Changes that wait.
#[derive(Default)]
pub(crate) struct Parked {
    requests: Mutex<Vec<Request>>,
}

struct Request {
    body: Bytes,
    responder: Responder,
    until: Instant,
}

impl Parked {
    /// Has a change wait, which is handled by `service` afterwards; given back where too many do.
    pub(crate) fn park(
        service: &Service,
        body: &Bytes,
        responder: Responder,
    ) -> Result<(), Responder> {
        let shard = &service.0;
        let mut requests = shard.parked.requests.lock();
        if requests.len() >= MOST {
            return Err(responder);
        }
        let until = Instant::now() + PATIENCE;
        requests.push(Request { body: body.clone(), responder, until });
        if requests.len() == 1 {
            shard.runtime.spawn(watch(Service(Arc::clone(shard))));
        }
        Ok(())
    }
}

#[cfg(test)]
impl Parked {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.requests.lock().len()
    }
}

/// Looks until nothing waits any more.
async fn watch(service: Service) {
    loop {
        sleep(LOOK_INTERVAL).await;
        let parked = &service.0.parked.requests;
        let now = Instant::now();
        let over = {
            let mut parked = parked.lock();
            let requests = std::mem::take(&mut *parked);
            let (over, wait) = if service.0.engine.has_frozen() {
                requests.into_iter().partition(|request| request.until <= now)
            } else {
                (requests, Vec::new())
            };
            *parked = wait;
            // Under the lock: whoever is the first from now on starts another.
            if parked.is_empty() && over.is_empty() {
                return;
            }
            over
        };
        for Request { body, responder, .. } in over {
            service.execute(&body, responder);
        }
        if parked.lock().is_empty() {
            return;
        }
    }
}

/// Whether a request changes anything in a range that is frozen.
pub(crate) fn is_frozen(shard: &Shard, operation: &ShardOperation<'_>) -> bool {
    if !shard.engine.has_frozen() {
        return false;
    }
    let within =
        |key: &str| shard.position(key).is_ok_and(|position| shard.engine.is_frozen(position.0));
    match operation {
        ShardOperation::Write(write) => within(write.key),
        ShardOperation::Remove(remove) => within(remove.key),
        ShardOperation::Pop(pop) => within(pop.key),
        ShardOperation::Touch(touch) => within(touch.key),
        ShardOperation::Batch(batch) => batch.mutations.iter().any(|mutation| match mutation {
            Mutation::Write(write) => within(write.key),
            Mutation::Remove(remove) => within(remove.key),
        }),
        _ => false,
    }
}
