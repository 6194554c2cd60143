//! Changing which shards a cluster has, and which owns what.

use sherd_protocol::message::{
    ApplyPlan, BootstrapAnswer, BootstrapOperation, MovesStatus, PastMap, PauseMoves, PlanActions,
};
use sherd_protocol::{Action, Plan};

use crate::call::unexpected;
use crate::client::Client;
use crate::error::Error;

impl Client {
    /// What would move for some actions, by what the shards hold now. Nothing is changed.
    ///
    /// # Errors
    /// When an action is not possible, or a shard is away.
    pub async fn plan(&self, actions: Vec<Action>) -> Result<Plan, Error> {
        let operation = BootstrapOperation::Plan(PlanActions { actions });
        match self.ask_bootstrap("planning", "", false, &operation).await? {
            BootstrapAnswer::Plan(plan) => Ok(*plan),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Begins to carry out a plan; a move may bring up to `rate` bytes a second.
    /// [`Client::moves`] says how far it is.
    ///
    /// # Errors
    /// When the map has changed since the plan was made, or another plan is being carried out.
    pub async fn apply(&self, plan: Plan, rate: Option<u64>) -> Result<(), Error> {
        let operation = BootstrapOperation::Apply(ApplyPlan { plan: Box::new(plan), rate });
        self.done("applying a plan", true, &operation).await
    }

    /// How far the moves of the plan that is being carried out are; none when it is done.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn moves(&self) -> Result<MovesStatus, Error> {
        let operation = BootstrapOperation::Moves;
        match self.ask_bootstrap("asking for the moves", "", false, &operation).await? {
            BootstrapAnswer::Moves(moves) => Ok(moves),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Ends the moves. What is being handed over in this moment still is; all else stays where it is.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn cancel_moves(&self) -> Result<(), Error> {
        self.done("cancelling the moves", false, &BootstrapOperation::CancelMoves).await
    }

    /// Stops the moves, or lets them go on.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn pause_moves(&self, paused: bool) -> Result<(), Error> {
        let operation = BootstrapOperation::PauseMoves(PauseMoves { paused });
        self.done("pausing or resuming the moves", false, &operation).await
    }

    /// The maps before the present one, oldest first.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn history(&self) -> Result<Vec<PastMap>, Error> {
        let operation = BootstrapOperation::History;
        match self.ask_bootstrap("asking for the history", "", false, &operation).await? {
            BootstrapAnswer::History(history) => Ok(history),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Asks what is answered `done`. Where it `changes`, twice is not the same as once.
    async fn done(
        &self,
        what: &'static str,
        changes: bool,
        operation: &BootstrapOperation<'_>,
    ) -> Result<(), Error> {
        match self.ask_bootstrap(what, "", changes, operation).await? {
            BootstrapAnswer::Done => Ok(()),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }
}
