//! What a key holds, and what an operation makes of it: the meaning of every call and answer.

use std::fmt;

use sherd_client::Condition;

use super::{Answer, Call, Operation, Value};

/// What a key holds, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// The value of its document; `None` where there is none.
    pub(super) value: Option<Value>,
    /// The version of its last change: of a write where there is a document, else of a removal.
    pub(super) version: Version,
}

/// A version. It is not known exactly after a change of unknown outcome, before somebody sees it,
/// and where there is no document nobody will see it: then it only bounds the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    Is(u64),
    AtLeast(u64),
}

impl Version {
    /// Whether this may be the other one: all that fits after the other fits after this.
    pub(super) fn admits(self, other: Self) -> bool {
        match (self, other) {
            (Self::Is(version), other) => other == Self::Is(version),
            (Self::AtLeast(least), Self::Is(other) | Self::AtLeast(other)) => least <= other,
        }
    }
}

impl State {
    /// A key that was never written.
    pub(super) const NEW: Self = Self { value: None, version: Version::AtLeast(0) };

    /// The state after an operation; `None` where it cannot have been answered so here. An
    /// operation of unknown outcome is taken to have happened, with an effect.
    pub(super) fn after(self, operation: &Operation) -> Option<Self> {
        use Answer::*;
        match (operation.call, operation.answer) {
            (Call::Read, Found { value, version }) => self.holding(value)?.at(version),
            (Call::Has, There { version }) => self.at(version),
            (Call::Read | Call::Has | Call::Pop | Call::Remove { .. }, Missing) => self.absent(),
            (Call::Pop, Found { value, version }) => {
                self.holding(value)?.at(version)?.changed(None, None)
            }
            (Call::Pop, Unknown) => self.meeting(Condition::Present)?.changed(None, None),
            (Call::Write { value, condition }, Written { version }) => {
                self.meeting(condition)?.changed(Some(value), Some(version))
            }
            (Call::Write { value, condition }, Unknown) => {
                self.meeting(condition)?.changed(Some(value), None)
            }
            (Call::Write { condition, .. }, ConditionFailed { version }) => {
                self.failing(condition, version)
            }
            (Call::Remove { version: wanted }, Removed { version }) => {
                self.meeting(of_removal(wanted))?.changed(None, Some(version))
            }
            (Call::Remove { version: wanted }, Unknown) => {
                self.meeting(of_removal(wanted))?.changed(None, None)
            }
            (Call::Remove { version: wanted @ Some(_) }, ConditionFailed { version }) => {
                // Where there is nothing, it is missing.
                version.and_then(|_| self.failing(of_removal(wanted), version))
            }
            // No answer to this call.
            _ => None,
        }
    }

    fn absent(self) -> Option<Self> {
        self.value.is_none().then_some(self)
    }

    fn holding(self, value: Value) -> Option<Self> {
        (self.value == Some(value)).then_some(self)
    }

    /// With a document of that version, which is known from then on.
    fn at(self, version: u64) -> Option<Self> {
        let agrees = match self.version {
            Version::Is(known) => version == known,
            Version::AtLeast(least) => version >= least,
        };
        (agrees && self.value.is_some()).then_some(Self { version: Version::Is(version), ..self })
    }

    /// Where the condition holds.
    fn meeting(self, condition: Condition) -> Option<Self> {
        match condition {
            Condition::Any => Some(self),
            Condition::Absent => self.absent(),
            Condition::Present => self.value.map(|_| self),
            Condition::Version(version) => self.at(version),
        }
    }

    /// Where the condition does not hold, because of the version that is there.
    fn failing(self, condition: Condition, found: Option<u64>) -> Option<Self> {
        match (condition, found) {
            (Condition::Absent, Some(found)) => self.at(found),
            (Condition::Version(wanted), Some(found)) if wanted != found => self.at(found),
            (Condition::Present | Condition::Version(_), None) => self.absent(),
            _ => None,
        }
    }

    /// After a change, whose version is above all before it.
    fn changed(self, value: Option<Value>, version: Option<u64>) -> Option<Self> {
        let (Version::Is(last) | Version::AtLeast(last)) = self.version;
        let version = match version {
            Some(version) if version <= last => return None,
            Some(version) if value.is_some() => Version::Is(version),
            Some(version) => Version::AtLeast(version),
            None => Version::AtLeast(last + 1),
        };
        Some(Self { value, version })
    }
}

/// When a removal takes place.
fn of_removal(version: Option<u64>) -> Condition {
    version.map_or(Condition::Present, Condition::Version)
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => write!(f, "value {value}, ")?,
            None => write!(f, "no document, last changed by ")?,
        }
        match self.version {
            Version::Is(version) => write!(f, "version {version}"),
            Version::AtLeast(least) => write!(f, "a version of {least} or more"),
        }
    }
}
