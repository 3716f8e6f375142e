//! [`RunLedger`]: what was asked and what was acknowledged, in which order.
//!
//! What was acknowledged must be there afterwards, unless a client deleted just that: a delete
//! excuses what was pushed before it, or while it ran, and nothing that was begun after it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jreg_oci::{Digest, Tag};
use jreg_registry::{ChangeId, Error, GRACE_MIN, TagTransition};

/// For how long content that nothing names stays after a response said that it exists: the
/// grace less the age from which a push makes young again.
pub(crate) const KEPT: Duration = Duration::from_secs(GRACE_MIN.as_secs() - 3600);

/// Something that is pushed, and may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PushedContent {
    Blob(String, Digest),
    Manifest(String, Digest),
    Tag(String, String),
}

/// A request that content exist, or whether it does.
#[derive(Clone, Debug)]
pub(crate) struct PushRecord {
    pub(crate) thing: PushedContent,
    /// The blob or the manifest, or where the tag is to lead.
    pub(crate) digest: Digest,
    pub(crate) began: u64,
    pub(crate) began_at: Duration,
    pub(crate) ended: Option<u64>,
    pub(crate) is_acked: bool,
    /// Whether it pushes the copy of a delete.
    pub(crate) is_restore: bool,
}

/// A request that content be deleted.
#[derive(Clone, Debug)]
struct DeleteRecord {
    thing: PushedContent,
    began: u64,
    ended: Option<u64>,
    is_acked: bool,
}

/// A page of a tag's history that a client has read.
#[derive(Clone, Debug)]
pub(crate) struct HistoryPage {
    pub(crate) tag: (String, Tag),
    /// How many changes were acknowledged before.
    pub(crate) known: usize,
    pub(crate) items: Vec<PageItem>,
}

/// A change of a page, and what the tag pointed to from then on.
pub(crate) type PageItem = (ChangeId, Option<Digest>);

#[derive(Clone, Debug, Default)]
pub(crate) struct LedgerRecords {
    step: u64,
    /// The last step before the actors began.
    started: u64,
    pub(crate) pushes: Vec<PushRecord>,
    deletes: Vec<DeleteRecord>,
    /// Changes of tags that a response named, with their repository.
    pub(crate) changes: Vec<(String, TagTransition)>,
    pub(crate) pages: Vec<HistoryPage>,
    /// Purges that were acknowledged, and when they began.
    pub(crate) purges: Vec<(PushedContent, u64)>,
    faults: Vec<String>,
    /// How many requests failed because of others.
    pub(crate) interrupted: u64,
    /// Number of acknowledged requests.
    pub(crate) acked: u64,
    /// How much a GC run, or a delete, has removed.
    pub(crate) removed: u64,
}

impl LedgerRecords {
    /// Whether a delete of this may have come after what was begun then.
    pub(crate) fn excuses(&self, thing: &PushedContent, began: u64) -> bool {
        let later = |delete: &&DeleteRecord| delete.ended.is_none_or(|ended| ended >= began);
        self.deletes.iter().filter(later).any(|delete| delete.thing == *thing)
    }

    /// How many requests may have deleted a tag: its own deletes, and those of manifests.
    pub(crate) fn deletes_of(&self, name: &str, tag: &str) -> usize {
        let may_delete = |thing: &PushedContent| match thing {
            PushedContent::Tag(of, deleted) => of == name && deleted == tag,
            PushedContent::Manifest(of, _) => of == name,
            PushedContent::Blob(..) => false,
        };
        self.deletes.iter().filter(|delete| may_delete(&delete.thing)).count()
    }

    /// Whether a client may have pushed this after that was begun.
    pub(crate) fn is_pushed_since(&self, thing: &PushedContent, began: u64) -> bool {
        let later = |push: &&PushRecord| push.ended.is_none_or(|ended| ended >= began);
        self.pushes.iter().filter(later).any(|push| push.thing == *thing && !push.is_restore)
    }

    /// Whether a delete of this was acknowledged, and nobody may have pushed it since.
    pub(crate) fn stays_deleted(&self, thing: &PushedContent) -> bool {
        self.is_deleted(thing)
            && self.deletes.iter().any(|delete| {
                let began = delete.began;
                delete.is_acked
                    && delete.thing == *thing
                    && !self.pushes.iter().any(|push| {
                        push.thing == *thing && push.ended.is_none_or(|ended| ended >= began)
                    })
            })
    }

    /// Whether a delete of this was acknowledged.
    pub(crate) fn is_deleted(&self, thing: &PushedContent) -> bool {
        self.deletes.iter().any(|delete| delete.is_acked && delete.thing == *thing)
    }

    /// When the last push of this began that was acknowledged; if none was, the first.
    pub(crate) fn began(&self, thing: &PushedContent, digest: &Digest) -> u64 {
        let of_it = || self.pushes.iter().filter(|p| p.thing == *thing && p.digest == *digest);
        let acked = of_it().filter(|push| push.is_acked).map(|push| push.began).max();
        acked.or_else(|| of_it().map(|push| push.began).min()).unwrap_or_default()
    }

    /// Whether the last push of something was acknowledged.
    pub(crate) fn is_acked(&self, thing: &PushedContent) -> bool {
        let last = self.pushes.iter().rfind(|push| push.thing == *thing);
        last.is_some_and(|push| push.is_acked)
    }

    /// Content that a response said exists, and that must stay for a while at least.
    pub(crate) fn acked(&self) -> impl Iterator<Item = &PushRecord> {
        self.pushes.iter().filter(|push| push.is_acked)
    }

    /// Whether the tag may have been moved elsewhere since a push of it.
    pub(crate) fn may_have_moved(&self, push: &PushRecord) -> bool {
        let others =
            self.pushes.iter().filter(|p| p.thing == push.thing && p.digest != push.digest);
        others.into_iter().any(|other| other.ended.is_none_or(|ended| ended >= push.began))
    }

    /// Requests and their outcomes, in any order.
    pub(crate) fn shape(&self) -> String {
        let pushes = self.pushes.iter().map(|push| (&push.thing, &push.digest, push.is_acked));
        let deletes = self.deletes.iter().map(|delete| &delete.thing);
        format!("{:?} {:?}", pushes.collect::<Vec<_>>(), deletes.collect::<Vec<_>>())
    }

    /// What has gone wrong so far.
    pub(crate) fn fault(&self) -> Option<&String> {
        self.faults.first()
    }

    /// The step at which the latest request began or ended.
    pub(crate) fn began_last(&self) -> u64 {
        self.step
    }

    fn next(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// A push found content missing that a recent response, before it began, said exists.
    fn check_missing(&mut self, repository: &str, missing: &[Digest], began: u64, now: Duration) {
        for digest in missing {
            let blob = PushedContent::Blob(repository.to_owned(), digest.clone());
            let promised = self.acked().any(|push| {
                push.thing == blob
                    && push.ended.is_some_and(|ended| ended < began)
                    && now <= push.began_at + KEPT
                    && !self.excuses(&blob, push.began)
            });
            if promised {
                self.faults.push(format!("{blob:?} is missing shortly after it was there"));
            }
        }
    }
}

/// The records of one run.
#[derive(Debug, Default)]
pub(crate) struct RunLedger(Mutex<LedgerRecords>);

impl RunLedger {
    pub(crate) fn new(mut records: LedgerRecords) -> Self {
        records.started = records.step;
        Self(Mutex::new(records))
    }

    pub(crate) fn records(&self) -> MutexGuard<'_, LedgerRecords> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, thing: PushedContent, digest: &Digest, began_at: Duration) -> usize {
        let mut records = self.records();
        let (began, digest) = (records.next(), digest.clone());
        let push = PushRecord {
            thing,
            digest,
            began,
            began_at,
            ended: None,
            is_acked: false,
            is_restore: false,
        };
        records.pushes.push(push);
        records.pushes.len() - 1
    }

    /// Notes what a request has made of tags.
    pub(crate) fn note_changes(&self, name: &str, transitions: &[TagTransition]) {
        let mut records = self.records();
        for made in transitions.iter().filter(|made| made.is_change()) {
            records.removed += u64::from(made.before.is_some());
            records.changes.push((name.to_owned(), made.clone()));
        }
    }

    /// The response to some pushes that are one request.
    pub(crate) fn end(&self, pushes: &[usize], outcome: Result<(), Error>, now: Duration) -> bool {
        let mut records = self.records();
        let ended = records.next();
        let began = pushes.iter().map(|push| records.pushes[*push].began).min().unwrap_or(ended);
        for push in pushes {
            let push = &mut records.pushes[*push];
            (push.ended, push.is_acked) = (Some(ended), outcome.is_ok());
        }
        records.acked += u64::from(outcome.is_ok());
        match &outcome {
            Err(Error::ReferencesUnknown { name, missing }) => {
                records.check_missing(name.as_str(), missing, began, now);
            }
            Err(Error::Interrupted { .. } | Error::Busy { .. }) => records.interrupted += 1,
            Err(error @ Error::Damaged { .. }) => records.faults.push(error.to_string()),
            _ => {}
        }
        outcome.is_ok()
    }

    pub(crate) fn begin_delete(&self, thing: PushedContent) -> usize {
        let mut records = self.records();
        let began = records.next();
        records.deletes.push(DeleteRecord { thing, began, ended: None, is_acked: false });
        records.deletes.len() - 1
    }

    /// A run of retention, which may delete what was pushed before all actors began, and nothing that was pushed since.
    pub(crate) fn begin_expiry(&self, thing: PushedContent) {
        let mut records = self.records();
        let at = records.started;
        records.deletes.push(DeleteRecord { thing, began: at, ended: Some(at), is_acked: false });
    }

    pub(crate) fn end_delete(&self, delete: usize, outcome: &Result<(), Error>) {
        let mut records = self.records();
        let ended = records.next();
        // One that failed half way may have done its work, but does nothing more.
        let delete = &mut records.deletes[delete];
        (delete.ended, delete.is_acked) = (Some(ended), outcome.is_ok());
        records.removed += u64::from(outcome.is_ok());
    }

    pub(crate) fn blame(&self, what: String) {
        self.records().faults.push(what);
    }
}
