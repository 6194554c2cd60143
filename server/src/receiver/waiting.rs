//! Who waits for a move's completion: one at a time, for it is bootstrap that asks.

use parking_lot::Mutex;
use sherd_node::Responder;
use tokio::sync::Notify;

use super::unavailable;

/// A place for one who waits.
#[derive(Default)]
pub(super) struct Waiting {
    place: Mutex<Place>,
    came: Notify,
}

#[derive(Default)]
struct Place {
    responder: Option<Responder>,
    /// Nobody will look any more.
    closed: bool,
}

impl Waiting {
    /// Waits for the completion of the move `id`, in the place of whoever did: asked again, the answer to
    /// the first question is heard by nobody.
    pub(super) fn put(&self, id: &str, responder: Responder) {
        let mut place = self.place.lock();
        if place.closed {
            return responder.refuse(&unavailable(id, "it is not received any more"));
        }
        if let Some(older) = place.responder.replace(responder) {
            older.refuse(&unavailable(id, "its completion was asked for again"));
        }
        self.came.notify_one();
    }

    /// Who waits.
    pub(super) fn take(&self) -> Option<Responder> {
        self.place.lock().responder.take()
    }

    /// Waits for somebody to come, who may be gone by then.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// Nobody will look any more.
    pub(super) fn close(&self, id: &str) {
        let mut place = self.place.lock();
        place.closed = true;
        if let Some(responder) = place.responder.take() {
            responder.refuse(&unavailable(id, "it is not received any more"));
        }
    }
}
