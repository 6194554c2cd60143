//! What setting a limit has evicted.

use std::time::Duration;

use sherd_client::Client;

use crate::output::say;
use crate::units::show_count;

/// How long the shards may take to say what they hold. Where one does not, nothing is said.
const STAT_TIME: Duration = Duration::from_secs(2);

/// What has the limit.
#[derive(Clone, Copy)]
pub(super) enum Limited<'a> {
    Shard(&'a str),
    Index(&'a str),
}

/// How many documents there are, and how many were evicted, ever.
#[derive(Clone, Copy, Default)]
pub(super) struct Evicted {
    documents: u64,
    evicted: u64,
}

impl Evicted {
    /// As things are now.
    pub(super) async fn of(client: &Client, limited: Limited<'_>) -> Option<Self> {
        let mut all = Self::default();
        for view in client.with_deadline(STAT_TIME).stat().await {
            match limited {
                Limited::Shard(name) if view.shard.name == name => {
                    let stat = view.stat.ok()?;
                    all.add(stat.documents, stat.counts.evicted);
                }
                Limited::Shard(_) => {}
                Limited::Index(name) => {
                    let stat = view.stat.ok()?;
                    for index in stat.indexes.iter().filter(|index| index.name == name) {
                        all.add(index.documents, index.counts.evicted);
                    }
                }
            }
        }
        Some(all)
    }

    fn add(&mut self, documents: u64, evicted: u64) {
        self.documents += documents;
        self.evicted += evicted;
    }

    /// Says what was evicted since, if anything was.
    pub(super) async fn say_since(before: Option<Self>, client: &Client, limited: Limited<'_>) {
        let Some((before, now)) = before.zip(Self::of(client, limited).await) else { return };
        match now.evicted.saturating_sub(before.evicted) {
            0 => {}
            evicted => say!(
                "{} evicted meanwhile, {} left",
                show_count(evicted, "document"),
                now.documents
            ),
        }
    }
}
