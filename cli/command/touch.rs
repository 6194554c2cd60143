//! `sherd touch`: when a document expires.

use clap::Args;
use serde::Serialize;
use sherd_client::{Expiry, Touched};

use crate::error::Error;
use crate::output::Output;
use crate::units::{parse_ttl, show_duration};

use super::documents::missing;
use super::{Context, parse_index, parse_key};

/// Set when a document expires
///
/// Its content and version stay. If it is not there, or has expired, the exit status is 3.
#[derive(Debug, Args)]
pub(crate) struct Touch {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// The key
    #[arg(value_name = "KEY", value_parser = parse_key, allow_negative_numbers = true)]
    key: String,
    #[command(flatten)]
    when: When,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct When {
    /// It expires that long from now, such as 500ms, 30s or 7d, whenever it would have before
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
    /// It never expires
    #[arg(long)]
    persist: bool,
}

/// A document touched, for programs.
#[derive(Serialize)]
struct Answer<'a> {
    key: &'a str,
    version: u64,
    /// In milliseconds since 1970; `null` for never.
    expires_at: Option<u64>,
}

impl Touch {
    /// Touches the document.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        // Without a time it is `--persist`.
        let expiry = self.when.ttl.map_or(Expiry::Never, Expiry::After);
        let Some(touched) = client.touch(&self.index, &self.key, expiry).await? else {
            missing(&self.index, &self.key);
            return Err(Error::DoesNotHoldSaid);
        };
        let Touched { version, expires_at } = touched;
        let mut output = Output::new();
        if context.json {
            let expires_at = Some(expires_at).filter(|&at| at != 0);
            output.json(&Answer { key: &self.key, version, expires_at })?;
        } else if let Some(ttl) = self.when.ttl {
            output.line(format_args!("expires in {}", show_duration(ttl)))?;
        } else {
            output.line("never expires")?;
        }
        output.flush()
    }
}
