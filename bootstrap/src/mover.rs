//! Driving the move under way, step by step.
//!
//! What the shards do of a move they are asked here: the target to take the range over, and to complete
//! that. Giving up and taking the range are assignments, which the shards are told as any other state.
//! Nothing is remembered here, so that a restart goes on from what is persisted.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sherd_client::ShardReply;
use sherd_node::hold_at;
use sherd_protocol::WireError;
use sherd_protocol::message::{MoveId, MoveProgress, Receive, ShardOperation, TargetOperation};
use tokio::time::{sleep, timeout};

use crate::control::Control;
use crate::moves::{Move, Step, Transition};
use crate::shard::Shard;
use crate::state::State;

/// How often the target is asked how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The pause after something went wrong.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How long a shard may take to answer, but for the completion.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long the target may take to complete.
const COMPLETION_TIME: Duration = Duration::from_secs(20);

/// The target is told to complete when it has so many records or fewer of the source's log left to read.
const LEFT_TO_COMPLETE: u64 = 20_000;

/// Drives moves for ever.
pub(crate) async fn drive(control: Arc<Control>) {
    let mut states = control.states();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let Some(current) = state.moves.current() else {
            *control.report.lock() = None;
            if states.changed().await.is_err() {
                return;
            }
            continue;
        };
        let advanced = match &current.step {
            Step::Copying => copy(&control, &state, current).await,
            Step::HandingOver { epoch, .. } => hand_over(&control, current, *epoch).await,
            Step::Failed { .. } => {
                if states.changed().await.is_err() {
                    return;
                }
                Ok(())
            }
        };
        if let Err(error) = advanced {
            note(&control, &current.id, &error);
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// Says why the move does not go on.
fn note(control: &Control, id: &str, error: &WireError) {
    let why = error.to_string();
    let mut report = control.report.lock();
    if report.as_ref().is_none_or(|report| report.id != id) {
        // It was of the move before.
        *report = Some(MoveProgress { id: id.to_owned(), ..MoveProgress::default() });
    }
    if let Some(report) = &mut *report
        && report.error.as_ref() != Some(&why)
    {
        tracing::warn!(r#move = %id, %why, "a move does not go on now");
        report.error = Some(why);
    }
}

/// Waits for what a shard is to do, and says meanwhile why it does not.
async fn await_shard<T>(
    control: &Control,
    id: &str,
    shard: &Shard,
    task: &str,
    done: impl Future<Output = T>,
) -> T {
    let mut done = pin!(done);
    loop {
        if let Ok(done) = timeout(RETRY_PAUSE, done.as_mut()).await {
            return done;
        }
        let what = format!("shard {:?}, which is to {task},", shard.name);
        note(control, id, &WireError::Unavailable { what, why: shard.why() });
    }
}

/// A shard of a move.
fn shard_of(control: &Control, name: &str) -> Result<Shard, WireError> {
    let missing = || format!("shard {name:?}, which has a part in a move, is not in the map");
    control.shard(name).ok_or_else(|| WireError::Internal { what: missing() })
}

/// Has the target take the range over; where it is nearly done, has it complete.
async fn copy(control: &Control, state: &State, current: &Move) -> Result<(), WireError> {
    let (source, target) = (state.map.shard(&current.from), control.shard(&current.to));
    let (Some(source), Some(target)) = (source, target) else {
        let why = "a shard of it is not in the map any more".to_owned();
        return control.advance(&current.id, Transition::Failed { why }).await.map(|_| ());
    };
    let paused = state.moves.paused;
    let receive = TargetOperation::Receive(Receive {
        id: &current.id,
        range: current.range,
        from: &source.address(),
        rate: if paused { Some(0) } else { state.moves.rate },
    });
    hold_at("bootstrap beginning").await;
    // A shard that was added just now will be connected in a moment: nothing to be told of.
    _ = timeout(RETRY_PAUSE, target.connects()).await;
    target.ask(&ShardOperation::Target(receive), ANSWER_TIME).await?;
    let stat = match target.ask(&ShardOperation::Stat, ANSWER_TIME).await? {
        ShardReply::Stat(stat) => stat,
        other => return Err(unexpected(&other)),
    };
    let incoming = stat.incoming.filter(|incoming| incoming.id == current.id);
    control.report.lock().clone_from(&incoming);
    let is_nearly_done = incoming.is_some_and(|it| it.copied && it.behind <= LEFT_TO_COMPLETE);
    if paused || !is_nearly_done {
        sleep(POLL_INTERVAL).await;
        return Ok(());
    }
    // What it was told of an earlier attempt and has not got yet is too old for it from then on.
    let source = shard_of(control, &current.from)?;
    let holds_newest = source.holds(state.map.epoch);
    await_shard(control, &current.id, &source, "give the range up", holds_newest).await;
    complete(control, current, &target).await
}

/// Has the source freeze the range and the target bring the rest; then the range is handed over.
async fn complete(control: &Control, current: &Move, target: &Shard) -> Result<(), WireError> {
    // Until the source has answered: it is frozen for so long.
    let _quiet = control.quiet().await;
    let complete = TargetOperation::Complete(MoveId { id: &current.id });
    let frozen_at = match target.ask(&ShardOperation::Target(complete), COMPLETION_TIME).await {
        Ok(ShardReply::Frozen { lsn }) => lsn,
        Ok(other) => return Err(unexpected(&other)),
        Err(error @ WireError::Mismatch { .. }) => {
            let why = error.to_string();
            tracing::error!(r#move = %current.id, %why, "a move has failed; the source keeps the range");
            return control.advance(&current.id, Transition::Failed { why }).await.map(|_| ());
        }
        Err(error) => return Err(error),
    };
    hold_at("bootstrap copied").await;
    tracing::info!(r#move = %current.id, range = %current.range, to = %current.to, "handing over");
    let copied = control.advance(&current.id, Transition::Copied { frozen_at }).await;
    let handed = match copied {
        Ok(handed) => handed,
        Err(error) => {
            // It was cancelled or paused meanwhile, and the source is to serve the range.
            control.thaw(&current.from, &current.id).await;
            return Err(error);
        }
    };
    if let Some(epoch) = handed.hands_over(&current.from) {
        let mut verdict = control.verdict();
        let said = verdict.wait_for(|said| said.is_some_and(|said| said.epoch == epoch));
        // Else it is awaited where it is needed.
        _ = timeout(ANSWER_TIME, said).await;
    }
    Ok(())
}

/// Waits until the source has given the range up and the target holds it, or the source has refused.
async fn hand_over(control: &Control, current: &Move, epoch: u64) -> Result<(), WireError> {
    let (source, target) = (shard_of(control, &current.from)?, shard_of(control, &current.to)?);
    let said = async {
        let mut verdict = control.verdict();
        let said = verdict.wait_for(|said| said.is_some_and(|said| said.epoch == epoch)).await;
        said.map(|said| said.is_some_and(|said| said.given_up))
    };
    let said = await_shard(control, &current.id, &source, "give the range up", said).await;
    let Ok(given_up) = said else { return Ok(()) };
    hold_at("bootstrap given up").await;
    if !given_up {
        tracing::warn!(r#move = %current.id, "the range stays with the source, and is copied on");
        return control.advance(&current.id, Transition::Refused).await.map(|_| ());
    }
    let holds = target.holds(epoch);
    await_shard(control, &current.id, &target, "serve the range", holds).await;
    hold_at("bootstrap owned").await;
    tracing::info!(r#move = %current.id, range = %current.range, to = %current.to, "moved");
    control.advance(&current.id, Transition::Owned).await.map(|_| ())
}

fn unexpected(reply: &ShardReply) -> WireError {
    WireError::Internal { what: format!("a shard answered {reply:?}") }
}
