//! Two objects that become durable together: one entry after the other in the log, and one sync.
//!
//! Both keys are locked from the check until both are durable, so no operation acts on the first
//! before the second exists. Two folders or two keys are locked in the order of their locks, and
//! folders before keys: there is no deadlock.

use std::time::SystemTime;

use super::folders::parent;
use super::records::{TemporaryFile, etag, taken};
use super::wal::{LOGGED_BYTES_MAX, Wal, WalEntry, WalRefusal};
use super::{FsInner, failure};
use crate::{ETag, PairOutcome, Put, Result, Written};

impl FsInner {
    /// Puts one object, and then another.
    pub(super) fn put_both(&self, first: &Put, then: &Put) -> Result<PairOutcome> {
        let version = &etag(&then.bytes);
        self.check_syncs(&first.key)?;
        self.check_mode(&first.key, &first.mode)?;
        let may_log = |put: &Put| put.bytes.len() as u64 <= LOGGED_BYTES_MAX;
        if let Some(log) = &self.log
            && may_log(first)
            && may_log(then)
            && self.check_mode(&then.key, &then.mode).is_ok()
            && let Some(outcome) = self.put_both_logged(log, [first, then], version)?
        {
            return Ok(outcome);
        }
        self.put_object(&first.key, &first.bytes, &first.mode, None)?;
        Ok(self
            .outcome(self.put_object(&then.key, &then.bytes, &then.mode, Some(version)), version))
    }

    fn outcome(&self, second: Result<()>, version: &ETag) -> PairOutcome {
        second.map(|()| Written { etag: version.clone(), date: self.clock.now() }).into()
    }

    /// The same by way of the log. `None`, and nothing is done: that is full, or the second may
    /// not be written.
    fn put_both_logged(
        &self,
        log: &Wal,
        puts: [&Put; 2],
        version: &ETag,
    ) -> Result<Option<PairOutcome>> {
        let modified = self.clock.now();
        let [first, then] = puts;
        let temporaries = [self.stage(first, modified)?, self.stage(then, modified)?];
        let (one, other) = (first.key.as_str(), then.key.as_str());
        let _folders = self.folders.both_shared(parent(one), parent(other));
        let _held = self.keys.both_exclusive(one, other);
        self.check_held(&first.key, &first.mode)?;
        if self.check_held(&then.key, &then.mode).is_err() {
            return Ok(None);
        }
        let logged = match log.write(puts.map(|put| change(put, modified)).into()) {
            Ok(logged) => logged,
            Err(WalRefusal::Full) => return Ok(None),
            Err(WalRefusal::Failed(error)) => return Err(failure::ambiguous(&first.key, error)),
        };
        let [of_first, of_then] = temporaries;
        let shown = self
            .show(first, of_first, None)
            .map(|()| self.outcome(self.show(then, of_then, Some(version)), version));
        drop(logged);
        let unshown: &[&str] = match &shown {
            Ok(PairOutcome::Both(_)) => &[],
            Ok(PairOutcome::FirstOnly(_)) => &[other],
            Err(_) => &[one, other],
        };
        if !unshown.is_empty() {
            self.retract(log, &first.key, unshown)?;
        }
        shown.map(Some)
    }

    /// Writes the file that is to have the key's name.
    fn stage(&self, put: &Put, modified: SystemTime) -> Result<TemporaryFile> {
        let Put { key, bytes, .. } = put;
        let folder = parent(key.as_str());
        self.folders.within(folder, |folder| self.write_temporary(key, folder, bytes, modified))
    }

    /// Gives a file its name, and notes a record's version.
    fn show(&self, put: &Put, temporary: TemporaryFile, version: Option<&ETag>) -> Result<()> {
        let path = self.path(&put.key);
        let renamed = temporary.rename(&path);
        self.appeared(&put.key, &renamed);
        renamed.map_err(|error| taken(&put.key, &path, error))?;
        self.read_next(&put.key, &put.bytes, version);
        Ok(())
    }
}

fn change(put: &Put, modified: SystemTime) -> WalEntry {
    WalEntry::Put { path: put.key.to_string(), modified, bytes: put.bytes.clone() }
}
