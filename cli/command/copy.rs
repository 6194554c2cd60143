//! `sherd copy`: an index into another one, of this cluster or of another.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use sherd_client::Client;

use crate::args::parse_address;
use crate::copy::{Copied, Copy, Place};
use crate::error::Error;
use crate::interrupt::stopping;
use crate::load::Conflict;
use crate::output::{Output, say};
use crate::progress::rate;

use super::{Context, parse_index};

/// Copy the documents of an index into another one
///
/// FROM and TO are indexes of this cluster, or of another one with its bootstrap in front:
///
///   sherd copy cities places                   within the cluster of --bootstrap
///   sherd copy old.example:9192/cities cities  from another one into it
///   sherd copy cities new.example:9192/        into another one, under the same name
///
/// Documents keep their times of expiry and get new versions. TO is created with the settings of
/// FROM where it does not exist. In the end the digest of TO must be what follows from the documents
/// copied; so nothing else should write to it meanwhile. What is written to FROM meanwhile is copied
/// or not. A document that TO has no room for ends the copy. How many were copied is said on every
/// end; a copy that was interrupted is gone on with by the same command. SHERD_TOKEN is for both
/// clusters.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CopyIndex {
    /// The index to read
    #[arg(value_name = "FROM", value_parser = parse_place)]
    from: Named,
    /// The index to write to
    #[arg(value_name = "TO", value_parser = parse_place)]
    to: Named,
    /// What becomes of a document whose key TO has already. Where it is rejected, the others are copied all
    /// the same, and the exit status is 1
    #[arg(long, value_name = "WHAT", default_value = "skip")]
    on_conflict: Conflict,
}

/// An index, maybe of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    bootstrap: Option<String>,
    /// None where it is that of the other side.
    index: Option<String>,
}

/// What was copied, for programs.
#[derive(Serialize)]
struct View {
    written: u64,
    overwritten: u64,
    existing: u64,
    failed: u64,
}

impl CopyIndex {
    /// Copies.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let begun = Instant::now();
        let other = |one: &Named, other: &Named| one.index.clone().or_else(|| other.index.clone());
        let (Some(from), Some(to)) = (other(&self.from, &self.to), other(&self.to, &self.from))
        else {
            return Err(Error::Usage("name an index in FROM, in TO, or in both".to_owned()));
        };
        let from = Place { client: connect(context, &self.from).await?, index: from };
        let to = Place { client: connect(context, &self.to).await?, index: to };
        if from.index == to.index
            && from.client.known_map().cluster == to.client.known_map().cluster
        {
            return Err(Error::Usage(format!("FROM and TO are the same index {:?}", to.index)));
        }
        create_like(&from, &to).await?;
        let copy = Copy::new(from, to.clone(), self.on_conflict).await?;
        let mut stopping = stopping()?;
        let work = Arc::clone(&copy).run();
        tokio::pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            signal = stopping.asked() => {
                copy.stop();
                // What is being written is counted.
                _ = work.await;
                Err(signal.ends("interrupted".to_owned()))
            }
        };
        // What was copied is said on every end: it stays.
        let copied = copy.copied();
        let proof = match &result {
            Ok(()) => format!("; the digest of {:?} is right", to.index),
            Err(_) => String::new(),
        };
        let printed = print(context, &copied, &proof, begun);
        if result.is_err() && !copy.has_ended() {
            let which = match self.on_conflict {
                Conflict::Skip | Conflict::Overwrite => "the same command",
                Conflict::Fail => "--on-conflict skip",
            };
            say!("what was copied stays; {which} goes on with the rest");
        }
        result?;
        printed?;
        if copied.failed > 0 { Err(Error::FailedSaid) } else { Ok(()) }
    }
}

fn print(context: &Context, copied: &Copied, proof: &str, begun: Instant) -> Result<(), Error> {
    let Copied { written, overwritten, existing, failed, .. } = *copied;
    let mut output = Output::new();
    if context.json {
        output.json(&View { written, overwritten, existing, failed })?;
        return output.flush();
    }
    let not_copied = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    output.line(format_args!(
        "{written} copied, {overwritten} overwritten, {existing} existing{not_copied}{}{proof}",
        rate(copied.documents(), begun.elapsed())
    ))?;
    output.flush()
}

/// Connects to the cluster of an index.
async fn connect(context: &Context, named: &Named) -> Result<Client, Error> {
    let mut context = context.clone();
    if let Some(bootstrap) = &named.bootstrap {
        context.bootstrap.clone_from(bootstrap);
    }
    context.connect().await
}

/// Creates the target with the settings of the source, where it does not exist.
async fn create_like(from: &Place, to: &Place) -> Result<(), Error> {
    let indexes = from.client.indexes().await?;
    let Some(source) = indexes.into_iter().find(|known| known.name == from.index) else {
        let index = from.index.clone();
        return Err(Error::DoesNotHold(
            sherd_protocol::WireError::IndexNotFound { index }.to_string(),
        ));
    };
    if to.client.indexes().await?.iter().any(|known| known.name == to.index) {
        return Ok(());
    }
    to.client.create_index_with(&to.index, source.settings).await?;
    Ok(())
}

/// Parses `[HOST:PORT/]INDEX`; behind `HOST:PORT/` the index may be left out.
fn parse_place(text: &str) -> Result<Named, String> {
    let Some((address, index)) = text.split_once('/') else {
        return Ok(Named { bootstrap: None, index: Some(parse_index(text)?) });
    };
    let index = if index.is_empty() { None } else { Some(parse_index(index)?) };
    Ok(Named { bootstrap: Some(parse_address(address)?), index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_may_have_its_cluster_in_front() {
        let named = |bootstrap: Option<&str>, index: Option<&str>| {
            Ok(Named { bootstrap: bootstrap.map(str::to_owned), index: index.map(str::to_owned) })
        };
        assert_eq!(parse_place("cities"), named(None, Some("cities")));
        assert_eq!(parse_place("h:1/cities"), named(Some("h:1"), Some("cities")));
        assert_eq!(parse_place("[::1]:9192/"), named(Some("[::1]:9192"), None));
        for bad in ["", "/cities", "h/cities", "h:1/a/b", "h:1/a b", "h:p/c"] {
            assert!(parse_place(bad).is_err(), "{bad}");
        }
    }
}
