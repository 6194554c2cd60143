//! The life of a bootstrap process, and what it answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sherd_client::ConnectOptions;
use sherd_node::{Handler, Limits, Listener, Node, Responder, blocking, check_token};
use sherd_protocol::message::{
    ApplyPlan, BootstrapAnswer, BootstrapOperation, ChangeIndex, Hello, IndexName, NewIndex,
    PauseMoves, PlanActions, Role, SetShard, Welcome,
};
use sherd_protocol::{PROTOCOL_VERSION, WireError, frame};

use crate::config::ClusterConfig;
use crate::control::Control;
use crate::error::Error;
use crate::state::{Command, State, now};
use crate::store::{Store, StoreError};

/// What a bootstrap process is told when it starts, besides the cluster's config.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; made if it is not there.
    pub data: PathBuf,
    /// The secret that a hello must show, and that is shown to shards. Default: none.
    pub token: Option<String>,
    /// The bounds on what peers can make the process hold.
    pub limits: Limits,
    /// How it connects to shards; as whom, and the token, are its own.
    pub connect: ConnectOptions,
    /// Shards whose data are lost, and that are to begin empty. Default: none.
    pub lost: Vec<String>,
}

impl Options {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let (limits, connect) = (Limits::default(), ConnectOptions::default());
        Self { data: data.into(), token: None, limits, connect, lost: Vec::new() }
    }
}

/// What starting found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where it listens.
    pub address: SocketAddr,
    /// The cluster was made now, from the config.
    pub is_new: bool,
    /// In what the config differs from the persisted state, which wins.
    pub differences: Vec<String>,
}

/// Serves the range map and the catalogue on `listener` until `shutdown` completes.
///
/// On the first start the map is taken from `config` and persisted; later the persisted one wins,
/// and a config that differs is reported. `ready` is called once, before the first connection is
/// accepted. Shards may come up before or after.
///
/// # Errors
/// When the data directory is in use, damaged, of an unknown format or not writable, and when the
/// config has names, sizes or addresses that no shard of a new cluster can have.
pub async fn run(
    listener: impl Listener,
    config: ClusterConfig,
    options: Options,
    ready: impl FnOnce(&Started),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let address = listener.local_addr().map_err(Error::Address)?;
    let Options { data, token, limits, connect, lost } = options;
    let opened = blocking(move || open(&data, &config, &lost)).await;
    let (store, state, is_new, differences) =
        opened.map_err(|_| Error::Panicked { what: "opening the state" })??;
    for difference in &differences {
        tracing::warn!(%difference, "the config differs from the cluster and is not applied");
    }
    let control = Arc::new(Control::new(
        store,
        state,
        ConnectOptions { client: "sherd-bootstrap".to_owned(), token: token.clone(), ..connect },
    ));
    control.start();
    ready(&Started { address, is_new, differences });
    let service = Service { control: Arc::clone(&control), token };
    Node::new(limits).serve(listener, service, shutdown).await;
    control.stop();
    Ok(())
}

fn open(
    data: &std::path::Path,
    config: &ClusterConfig,
    lost: &[String],
) -> Result<(Store, State, bool, Vec<String>), Error> {
    let (store, found) = Store::open(data)?;
    if let Some(mut state) = found {
        for shard in lost {
            if !state.met.remove(shard) {
                tracing::warn!(%shard, "nothing is known of a shard of that name that could be lost");
            }
        }
        if !lost.is_empty() {
            store.write(&state).map_err(|error: StoreError| Error::from(error))?;
        }
        let differences = state.differences(config);
        return Ok((store, state, false, differences));
    }
    config.check_new()?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(Error::Random)?;
    let state = State::new(config, format!("{:032x}", u128::from_be_bytes(id)));
    store.write(&state).map_err(|error: StoreError| Error::from(error))?;
    Ok((store, state, true, Vec::new()))
}

struct Service {
    control: Arc<Control>,
    token: Option<String>,
}

impl Handler for Service {
    fn welcome(&self, hello: &Hello) -> Result<Welcome, WireError> {
        check_token(self.token.as_deref(), hello)?;
        let epoch = self.control.state().map.epoch;
        let (version, role, name) = (PROTOCOL_VERSION, Role::Bootstrap, String::new());
        Ok(Welcome { version, role, name, epoch })
    }

    fn handle(&self, operation: Bytes, responder: Responder) {
        let control = &self.control;
        match frame::decode::<BootstrapOperation<'_>>(&operation) {
            Ok(BootstrapOperation::Map) => {
                responder.send(&BootstrapAnswer::Map(control.state().map.clone()));
            }
            Ok(BootstrapOperation::Indexes) => {
                responder.send(&BootstrapAnswer::Indexes(control.state().indexes.clone()));
            }
            Ok(BootstrapOperation::Status) => {
                responder.send(&BootstrapAnswer::Status(control.status()));
            }
            Ok(BootstrapOperation::CreateIndex(NewIndex { name, settings })) => {
                let command = Command::CreateIndex { name: name.to_owned(), settings };
                self.change(command, responder, index_named(name.to_owned()));
            }
            Ok(BootstrapOperation::SetIndex(ChangeIndex { name, change })) => {
                let command = Command::SetIndex { name: name.to_owned(), change };
                self.change(command, responder, index_named(name.to_owned()));
            }
            Ok(BootstrapOperation::DropIndex(IndexName { name })) => {
                // Also one that is dropped already, and is asked for again to be sure.
                let state = control.state();
                let mut known = state.indexes.iter().chain(&state.dropped);
                let dropped = known.find(|index| index.name == name).cloned();
                let command = Command::DropIndex { name: name.to_owned() };
                let missing = WireError::IndexNotFound { index: name.to_owned() };
                self.change(command, responder, move |_| {
                    dropped.map_or(BootstrapAnswer::Error(missing), BootstrapAnswer::Index)
                });
            }
            Ok(BootstrapOperation::SetShard(SetShard { shard, size, policy })) => {
                let shard = shard.to_owned();
                let command = Command::SetShard { shard, size, policy, at: now() };
                self.change(command, responder, |_| BootstrapAnswer::Done);
            }
            Ok(BootstrapOperation::Plan(PlanActions { actions })) => {
                let control = Arc::clone(&self.control);
                tokio::spawn(async move {
                    match control.plan(&actions).await {
                        Ok(plan) => responder.send(&BootstrapAnswer::Plan(Box::new(plan))),
                        Err(error) => responder.refuse(&error),
                    }
                });
            }
            Ok(BootstrapOperation::Apply(ApplyPlan { plan, rate })) => {
                let command = Command::StartMoves { plan, rate, at: now() };
                self.change(command, responder, |_| BootstrapAnswer::Done);
            }
            Ok(BootstrapOperation::Moves) => {
                let report = control.report.lock().clone();
                let status = control.state().moves.status(report.as_ref());
                responder.send(&BootstrapAnswer::Moves(status));
            }
            Ok(BootstrapOperation::CancelMoves) => {
                self.change(Command::CancelMoves { at: now() }, responder, |_| {
                    BootstrapAnswer::Done
                });
            }
            Ok(BootstrapOperation::PauseMoves(PauseMoves { paused })) => {
                let command = Command::PauseMoves { paused };
                self.change(command, responder, |_| BootstrapAnswer::Done);
            }
            Ok(BootstrapOperation::History) => {
                responder.send(&BootstrapAnswer::History(control.state().history.clone()));
            }
            Err(error) => responder.refuse(&WireError::bad_request("operation", error)),
        }
    }
}

impl Service {
    /// Carries out a change on a task of its own and answers what `answer` makes of the new state.
    fn change(
        &self,
        command: Command,
        responder: Responder,
        answer: impl FnOnce(&State) -> BootstrapAnswer + Send + 'static,
    ) {
        let control = Arc::clone(&self.control);
        tokio::spawn(async move {
            match control.change(command).await {
                Ok(state) => responder.send(&answer(&state)),
                Err(error) => responder.refuse(&error),
            }
        });
    }
}

/// The answer that names the index of a state.
fn index_named(name: String) -> impl FnOnce(&State) -> BootstrapAnswer {
    move |state| match state.index(&name) {
        Some(index) => BootstrapAnswer::Index(index.clone()),
        None => BootstrapAnswer::Error(WireError::IndexNotFound { index: name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_there_keeps_the_names_and_sizes_of_its_shards() {
        let text = r#"{"shards": [{"name": "a b", "size": 10, "host": "h", "port": 1}]}"#;
        let config = ClusterConfig::parse(text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let refused = open(dir.path(), &config, &[]).err();
        assert!(matches!(&refused, Some(Error::Config(_))), "{refused:?}");
        let (store, _) = Store::open(dir.path()).unwrap();
        store.write(&State::new(&config, "c0ffee".to_owned())).unwrap();
        drop(store);
        let (_, state, is_new, _) = open(dir.path(), &config, &[]).unwrap();
        assert!(!is_new && state.map.shard("a b").is_some());
    }
}
