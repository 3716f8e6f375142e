//! The emulator's state, and the one way to change it: a write under a condition, kept by the book
//! or as a server that lies keeps it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use s3s::{S3Result, s3_error};
use tokio::sync::oneshot;

use super::bucket::Bucket;
use super::clock::{S3Clock, whole_seconds};
use super::condition::{Condition, IfMatchForm};
use super::listing::Listings;
use super::multipart::S3PartRules;
use super::object::S3Object;
use super::pieces::Pieces;

/// How the conditions of writes are kept: by the book, or by a server that lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// Check and write are one step.
    #[default]
    Atomic,
    /// Checked, and then written in a second step: right as long as writers come one at a time.
    /// Between the steps a writer waits for another to have checked too, so that of two
    /// concurrent ones both win, but for no longer than this.
    OneAtATime(Duration),
    /// Accepted, and not looked at.
    Ignored,
    /// Refused with 501.
    Refused,
}

/// How the condition of a delete is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConditionalDelete {
    /// As those of writes are.
    #[default]
    Honoured,
    /// Accepted, and not looked at.
    Ignored,
    /// Refused with 501.
    Refused,
}

/// What becomes of a write on `If-Match` where there is no object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwapOfNothing {
    /// It is refused with 404.
    #[default]
    Refused,
    /// It is written (MinIO before September 2025, minio/minio#21526).
    Written,
}

/// How an object is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replacement {
    /// Bytes and etag are replaced in one step.
    #[default]
    Atomic,
    /// First the etag, and after this time the bytes (versitygw with `--sidecar`).
    EtagFirst(Duration),
}

/// Where the emulator goes its own way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmulatorBehavior {
    pub(crate) conditions: Conditions,
    pub(crate) conditional_delete: ConditionalDelete,
    pub(crate) swap_of_nothing: SwapOfNothing,
    pub(crate) if_match: IfMatchForm,
    pub(crate) replacement: Replacement,
    pub(crate) listings: Listings,
    pub(crate) parts: S3PartRules,
    pub(crate) complete_again: bool,
    pub(crate) forget_above_bytes: Option<u64>,
}

/// The emulator's state.
#[derive(Debug)]
pub(crate) struct EmulatorState {
    bucket: Mutex<Bucket>,
    pub(crate) clock: S3Clock,
    pub(crate) behavior: EmulatorBehavior,
    checked: ConditionChecks,
}

/// By key, who has checked a condition and not written yet, on a server that lies.
#[derive(Debug, Default)]
struct ConditionChecks(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl ConditionChecks {
    async fn wait_for_another(&self, key: &str, at_most: Duration) {
        let another = {
            let mut waiting = self.0.lock().expect("no holder of the waiting panics");
            if waiting.remove(key).is_some_and(|other| other.send(()).is_ok()) {
                return;
            }
            let (here, another) = oneshot::channel();
            waiting.insert(key.to_owned(), here);
            another
        };
        tokio::time::timeout(at_most, another).await.ok();
    }
}

impl EmulatorState {
    pub(crate) fn new(behavior: EmulatorBehavior, clock: S3Clock) -> Self {
        Self { bucket: Mutex::default(), clock, behavior, checked: ConditionChecks::default() }
    }

    pub(crate) fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("no holder of the bucket panics")
    }

    pub(crate) fn now(&self) -> SystemTime {
        whole_seconds(self.clock.now())
    }

    /// What is kept of the bytes of an object or a part.
    pub(crate) fn keep(&self, pieces: Pieces) -> Pieces {
        match self.behavior.forget_above_bytes {
            Some(most) if pieces.len() > most => Pieces::zeros(pieces.len()),
            _ => pieces,
        }
    }

    /// Shows an object with the etag of what replaces it, on a server that is made so.
    pub(crate) async fn tear(&self, key: &str, etag: &str) {
        let Replacement::EtagFirst(window) = self.behavior.replacement else { return };
        if let Some(object) = self.bucket().objects.get_mut(key) {
            object.etag = etag.to_owned();
        }
        tokio::time::sleep(window).await;
    }

    /// Makes a write if its condition holds.
    pub(crate) async fn write<T>(
        &self,
        key: &str,
        condition: Condition,
        write: impl FnOnce(&mut Bucket) -> S3Result<T>,
    ) -> S3Result<T> {
        match self.behavior.conditions {
            Conditions::Ignored => {}
            Conditions::OneAtATime(window) if condition != Condition::None => {
                self.check(&condition, self.bucket().objects.get(key))?;
                self.checked.wait_for_another(key, window).await;
            }
            Conditions::Refused if condition != Condition::None => {
                return Err(s3_error!(NotImplemented, "a condition on a write"));
            }
            Conditions::OneAtATime(_) | Conditions::Refused => {}
            Conditions::Atomic => {
                let mut bucket = self.bucket();
                self.check(&condition, bucket.objects.get(key))?;
                return write(&mut bucket);
            }
        }
        write(&mut self.bucket())
    }

    fn check(&self, condition: &Condition, stored: Option<&S3Object>) -> S3Result<()> {
        match self.behavior.swap_of_nothing {
            SwapOfNothing::Written if stored.is_none() => Ok(()),
            _ => condition.check(stored),
        }
    }

    /// The condition of a delete, as far as it is kept.
    pub(crate) fn deletion(&self, headers: &HeaderMap) -> S3Result<Condition> {
        let condition = Condition::of(headers, self.behavior.if_match)?;
        match (condition, self.behavior.conditional_delete) {
            (Condition::None, _) | (_, ConditionalDelete::Ignored) => Ok(Condition::None),
            (_, ConditionalDelete::Refused) => {
                Err(s3_error!(NotImplemented, "a condition on a delete"))
            }
            (condition, ConditionalDelete::Honoured) => Ok(condition),
        }
    }
}

/// The state, as s3s takes it.
#[derive(Clone, Debug)]
pub(crate) struct SharedState(pub(crate) Arc<EmulatorState>);

impl std::ops::Deref for SharedState {
    type Target = EmulatorState;

    fn deref(&self) -> &EmulatorState {
        &self.0
    }
}
