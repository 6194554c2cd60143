//! Targets that the tool starts and ends.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::error::Error;

/// How long a target may take until it answers.
pub(crate) const START_TIME: Duration = Duration::from_secs(30);

/// A process that is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program with its standard output at hand.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] when there is no such program.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Error> {
        let started = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let program = || command.as_std().get_program().to_string_lossy().into_owned();
        match started {
            Ok(child) => Ok(Self { child }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::NotInstalled(program()))
            }
            Err(error) => Err(Error::Failed(format!("cannot start {}: {error}", program()))),
        }
    }

    /// The first line of output that `wanted` finds something in. What comes later is thrown away.
    ///
    /// # Errors
    /// When the process ends before, or takes too long.
    pub(crate) async fn wait_for_line<T>(
        &mut self,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let Some(output) = self.child.stdout.take() else {
            return Err(Error::Failed("the output was read already".to_owned()));
        };
        let mut lines = BufReader::new(output).lines();
        let search = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(found) = wanted(&line) {
                    return Ok(found);
                }
            }
            Err(Error::Failed("the target ended before it was ready".to_owned()))
        };
        let late = |_| Error::Failed(format!("the target was not ready within {START_TIME:?}"));
        let found = tokio::time::timeout(START_TIME, search).await.map_err(late)??;
        // Somebody must go on reading, or the process would wait when the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(found)
    }
}
