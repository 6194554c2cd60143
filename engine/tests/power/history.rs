//! What was asked of a shard, group by group, and what is known to have happened.

use std::collections::HashMap;
use std::sync::Arc;

use super::Check;
use super::model::{Found, Model, Place, Text};

/// A state of the history, by its number; 0 is the empty shard.
pub type State = usize;

/// The states after each group. A tree: where a group was refused or lost, what came later follows
/// an earlier one.
#[derive(Clone)]
pub struct History {
    states: Vec<(Option<State>, Arc<Model>)>,
    /// Which state wrote a document: each has a text of its own.
    wrote: HashMap<Text, State>,
    /// The versions that answers gave.
    pub versions: HashMap<Text, u64>,
}

impl Default for History {
    fn default() -> Self {
        let states = vec![(None, Arc::default())];
        Self { states, wrote: HashMap::new(), versions: HashMap::new() }
    }
}

impl History {
    pub fn model(&self, state: State) -> &Arc<Model> {
        &self.states[state].1
    }

    pub fn push(&mut self, parent: State, model: Model) -> State {
        let state = self.states.len();
        for (place, text) in &model.documents {
            if self.states[parent].1.documents.get(place) != Some(text) {
                self.wrote.insert(Arc::clone(text), state);
            }
        }
        self.states.push((Some(parent), Arc::new(model)));
        state
    }

    /// The writes that were asked for between two states, in their order.
    pub fn writes(&self, after: State, until: State) -> Vec<(Place, Text)> {
        let mut writes: Vec<_> = self
            .back(until)
            .take_while(|&state| state > after)
            .filter_map(|state| {
                let before = self.model(self.states[state].0?);
                let documents = &self.model(state).documents;
                let new = documents
                    .iter()
                    .find(|(place, text)| before.documents.get(*place) != Some(*text));
                new.map(|(place, text)| (place.clone(), Arc::clone(text)))
            })
            .collect();
        writes.reverse();
        writes
    }

    /// From `tip` back to the beginning.
    fn back(&self, tip: State) -> impl Iterator<Item = State> + Clone {
        std::iter::successors(Some(tip), |&state| self.states[state].0)
    }

    /// The states that a shard may be in, the latest first.
    fn allowed(&self, known: Known) -> impl Iterator<Item = State> {
        self.back(known.tip).take_while(move |&state| state >= known.required)
    }

    /// The state that a shard is found in.
    pub fn find(&self, known: Known, found: &Found) -> Check<State> {
        for (text, version) in found.documents.values() {
            if let Some(answered) = self.versions.get(text)
                && answered != version
            {
                return Err(format!("{text:?} has version {version}, was given {answered}"));
            }
        }
        let mut wrong = Vec::new();
        for state in self.allowed(known) {
            match self.model(state).differs(found) {
                None => return Ok(state),
                Some(what) => wrong.push((state, what)),
            }
        }
        let fits = self.states.iter().position(|(_, model)| model.differs(found).is_none());
        let nearest = wrong
            .iter()
            .find(|(_, what)| !["documents", "times"].contains(&what.as_str()))
            .or(wrong.first());
        let found = found.documents.iter().map(|(place, (text, _))| (place, text));
        let latest = self.model(known.tip);
        Err(format!(
            "none of the states {} to {} of the history, but state {fits:?}; nearest {nearest:?}\n\
             found    {}\nexpected {}, assignment {:?}",
            known.required,
            known.tip,
            summary(found),
            summary(latest.documents.iter()),
            latest.assignment,
        ))
    }
}

/// Places and the beginnings of their documents.
fn summary<'a>(documents: impl Iterator<Item = (&'a Place, &'a Text)>) -> String {
    let documents = documents.map(|((index, position, name), text)| {
        let end = text.char_indices().nth(8).map_or(text.len(), |(end, _)| end);
        format!("{index}/{position}/{name}={:?}", &text[..end])
    });
    documents.collect::<Vec<_>>().join(" ")
}

/// What is known at a moment: `required` and what came before it happened; what came after `tip`
/// was not even asked for. `required` is `tip` or one of the states before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub required: State,
    pub tip: State,
}

/// Follows the marks of a journal.
#[derive(Clone, Default)]
pub struct Follower {
    pub known: Known,
    /// Which state wrote what was last read at a place.
    seen: HashMap<Place, State>,
}

impl From<Known> for Follower {
    fn from(known: Known) -> Self {
        Self { known, seen: HashMap::new() }
    }
}

impl Follower {
    pub fn submitted(&mut self, tip: State) {
        self.known.tip = tip;
    }

    pub fn acknowledged(&mut self, state: State) {
        self.known.required = self.known.required.max(state);
    }

    /// What was not there when a process had read its log will not come back.
    pub fn served(&mut self, state: State) {
        self.known = Known { required: self.known.required.max(state), tip: state };
    }

    /// A reader saw a document, or that there was none.
    pub fn observed(&mut self, history: &History, place: &Place, text: Option<&Text>) -> Check<()> {
        let before = self.seen.get(place).copied();
        let state = match text {
            Some(text) => match history.wrote.get(text) {
                Some(&state) => state,
                None => return Err(format!("{place:?} was read as {text:?}, never written")),
            },
            None => {
                let Some(before) = before else { return Ok(()) };
                let since = history.back(self.known.tip).take_while(|&state| state >= before);
                // It may have expired, which is no state of its own.
                if since.clone().any(|state| history.model(state).expires.contains_key(place)) {
                    return Ok(());
                }
                let gone =
                    since.filter(|&state| !history.model(state).documents.contains_key(place));
                gone.last().unwrap_or(before)
            }
        };
        self.seen.insert(place.clone(), state);
        self.acknowledged(state);
        Ok(())
    }
}
