//! [`Ledger`]: requests and responses of all clients, by register.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::instances::history::{Effect, History, Span};

/// The registers, each of which must be linearizable. Numbers refer to the fixtures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Register {
    /// The target of a tag in a repository.
    Tag(usize, usize),
    /// Whether a repository holds a manifest.
    Manifest(usize, usize),
    /// Whether a repository holds a blob.
    Blob(usize, usize),
    /// Whether a manifest is listed under its subject.
    Referrer(usize, usize),
}

/// What a response says, or may have done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) register: Register,
    pub(crate) effect: Effect,
    /// Whether it is known to have taken effect.
    pub(crate) certain: bool,
}

/// Existence, for registers without other content.
pub(crate) const THERE: usize = 0;

impl Claim {
    pub(crate) fn of(register: Register, effect: Effect) -> Self {
        Self { register, effect, certain: true }
    }

    pub(crate) fn perhaps(register: Register, effect: Effect) -> Self {
        Self { register, effect, certain: false }
    }
}

/// The histories of all registers, and their clock.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ticks: AtomicU64,
    histories: Mutex<BTreeMap<Register, History>>,
}

impl Ledger {
    /// A time after all earlier ones.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// Records a response.
    pub(crate) fn responded(&self, begun: u64, claims: Vec<Claim>, what: &str) {
        let ended = self.tick();
        for Claim { register, effect, certain } in claims {
            let span = match certain {
                true => Span::Certain { begun, ended },
                false => Span::Possible { begun, ended },
            };
            self.note(register, effect, span, what);
        }
    }

    /// Records a possible effect without a conclusive response.
    pub(crate) fn unsure(&self, span: Span, claims: Vec<Claim>, what: &str) {
        for Claim { register, effect, .. } in claims {
            if !matches!(effect, Effect::Read(_)) {
                self.note(register, effect, span, what);
            }
        }
    }

    fn note(&self, register: Register, effect: Effect, span: Span, what: &str) {
        self.histories().entry(register).or_default().add(effect, span, what.to_owned());
    }

    fn histories(&self) -> MutexGuard<'_, BTreeMap<Register, History>> {
        self.histories.lock().unwrap()
    }

    /// Panics unless every history is linearizable.
    pub(crate) fn check(&self, seed: u64) {
        for (register, history) in &mut *self.histories() {
            match register {
                Register::Tag(..) => {
                    history.close_failures();
                    history.allow_repeated_deletes();
                }
                Register::Manifest(..) => history.close_failures(),
                Register::Referrer(..) => history.allow_stray(),
                Register::Blob(..) => {}
            }
            if let Err(why) = history.check() {
                panic!("seed {seed}, {register:?}: {why}");
            }
        }
    }
}
