//! Where a history takes place, and what a restart does there.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::index::{IndexStore, MemoryStore};
use sherd_engine::{Engine, Options};
use tempfile::TempDir;

use crate::common::Machine;
use crate::history::Restart;

/// Where a history takes place.
pub(crate) enum Place {
    Simulated { machine: Machine, earlier: Option<MemoryStore> },
    Real(TempDir),
}

impl Place {
    pub(crate) fn open(&self, options: Options) -> Engine {
        let opened = match self {
            Self::Simulated { machine, .. } => machine.open_with(options),
            Self::Real(dir) => Engine::open(dir.path(), options),
        };
        opened.unwrap().0
    }

    /// Remembers the index as it is, for [`Restart::IndexOutdated`].
    pub(crate) fn remember_index(&mut self) {
        if let Self::Simulated { machine, earlier } = self {
            *earlier = Some(machine.index.snapshot());
        }
    }

    /// What a restart does to what the engine left. On the real disk a power cut is a kill, and an
    /// index is outdated by being lost.
    pub(crate) fn stop(&self, restart: &Restart) {
        match (self, restart) {
            (Self::Real(dir), Restart::IndexLost | Restart::IndexOutdated) => {
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            (Self::Real(_), _) => {}
            (Self::Simulated { machine, earlier }, restart) => match restart {
                Restart::Close => machine.fs.stop_process(),
                Restart::Kill { unflushed } => {
                    machine.fs.stop_process();
                    machine.index.crash(*unflushed);
                }
                Restart::PowerCut { seed, unflushed } => {
                    let mut rng = StdRng::seed_from_u64(*seed);
                    machine.fs.crash(|| rng.random());
                    machine.index.crash(*unflushed);
                }
                Restart::IndexLost => {
                    machine.fs.stop_process();
                    machine.index.set_aside().unwrap();
                }
                Restart::IndexOutdated => {
                    machine.fs.stop_process();
                    machine.index.restore_entries(&earlier.clone().unwrap_or_default());
                }
            },
        }
    }
}
