//! Several changes that become durable together: one entry after the other in the log, and one sync.
//!
//! All keys are locked from the checks until the changes are durable, so no operation acts on one
//! before the last exists. Folders and keys are locked in the order of their locks, and folders
//! before keys: there is no deadlock.

use std::io;
use std::time::SystemTime;

use super::folders::parent;
use super::records::{TemporaryFile, etag, taken};
use super::uploads::UploadClaims;
use super::wal::{LOGGED_BYTES_MAX, Wal, WalEntry, WalRefusal};
use super::{FsInner, failure};
use crate::{
    ETag, Error, ErrorKind, Key, Multipart, Put, Result, SequenceOutcome, StoreChange, Written,
};

/// A change of a sequence, which has one [`SequenceStep::Complete`] at most.
#[derive(Clone, Copy)]
enum SequenceStep<'c> {
    Put(&'c Put, Option<&'c ETag>),
    Complete(&'c Multipart),
}

/// A step whose file is written, and durable if it is an upload's.
enum StagedStep<'c> {
    Put(&'c Put, Option<&'c ETag>, TemporaryFile),
    /// The file has this name below the root.
    Complete(&'c Multipart, String),
}

/// How many steps were made, and why the next one was not.
struct MadeSteps {
    done: usize,
    failed: Option<Error>,
}

impl SequenceStep<'_> {
    fn key(&self) -> &Key {
        match self {
            Self::Put(put, _) => &put.key,
            Self::Complete(upload) => &upload.key,
        }
    }

    /// Whether the log takes it.
    fn fits_log(&self) -> bool {
        match self {
            Self::Put(put, _) => put.bytes.len() as u64 <= LOGGED_BYTES_MAX,
            Self::Complete(_) => true,
        }
    }
}

impl StagedStep<'_> {
    fn key(&self) -> &Key {
        match self {
            Self::Put(put, ..) => &put.key,
            Self::Complete(upload, _) => &upload.key,
        }
    }

    fn entry(&self, modified: SystemTime) -> WalEntry {
        let to = self.key().to_string();
        match self {
            Self::Put(put, ..) => WalEntry::Put { path: to, modified, bytes: put.bytes.clone() },
            Self::Complete(upload, name) => {
                let (path, size_bytes) = (name.clone(), upload.size_bytes());
                WalEntry::Rename { path, to, size_bytes, modified }
            }
        }
    }

    /// The files that the log names.
    fn paths(&self) -> Vec<String> {
        let key = self.key().to_string();
        match self {
            Self::Put(..) => vec![key],
            Self::Complete(_, name) => vec![name.clone(), key],
        }
    }
}

/// The first step says why nothing was done; what a later one says is found again when the steps are
/// made in turn.
fn refused<T>(step: usize, error: Error) -> Result<Option<T>> {
    if step == 0 { Err(error) } else { Ok(None) }
}

impl FsInner {
    /// Makes changes, and then a write.
    pub(super) fn put_after(&self, before: &[StoreChange], then: &Put) -> Result<SequenceOutcome> {
        let version = etag(&then.bytes);
        let mut steps: Vec<_> = before
            .iter()
            .map(|change| match change {
                StoreChange::Put(put) => SequenceStep::Put(put, None),
                StoreChange::Complete(upload) => SequenceStep::Complete(upload),
            })
            .collect();
        steps.push(SequenceStep::Put(then, Some(&version)));
        self.check_syncs(&then.key)?;
        let logged = match &self.log {
            Some(log) if steps.iter().all(SequenceStep::fits_log) => {
                self.make_logged(log, &steps)?
            }
            Some(_) | None => None,
        };
        let MadeSteps { done, failed } = logged.unwrap_or_else(|| self.make_in_turn(&steps));
        match failed {
            None => Ok(SequenceOutcome::All(Written { etag: version, date: self.clock.now() })),
            Some(error) => SequenceOutcome::stopped(done, error),
        }
    }

    /// Makes changes, and then a write, with the space that is kept back, if there is no other. After a change
    /// for which there was none, what is left is tried again: the changes before it are made.
    pub(super) fn put_after_with_reserve(
        &self,
        before: &[StoreChange],
        then: &Put,
    ) -> Result<SequenceOutcome> {
        let mut made = 0;
        loop {
            let left = before.get(made..).unwrap_or_default();
            let (done, error) = match self.put_after(left, then) {
                Ok(SequenceOutcome::All(written)) => {
                    self.reserve.refill();
                    return Ok(SequenceOutcome::All(written));
                }
                Ok(SequenceOutcome::Stopped { done, error }) => (done, error),
                Err(error) => (0, error),
            };
            made += done;
            let bytes = match before.get(made) {
                Some(StoreChange::Put(put)) => put.bytes.len(),
                Some(StoreChange::Complete(_)) => 0,
                None => then.bytes.len(),
            };
            if error.kind() != ErrorKind::Full || !self.reserve.release(bytes as u64) {
                return SequenceOutcome::stopped(made, error);
            }
        }
    }

    pub(super) fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        self.check_syncs(&upload.key)?;
        let steps = [SequenceStep::Complete(upload)];
        let logged = match &self.log {
            Some(log) => self.make_logged(log, &steps)?,
            None => None,
        };
        match logged.unwrap_or_else(|| self.make_in_turn(&steps)).failed {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn make_in_turn(&self, steps: &[SequenceStep<'_>]) -> MadeSteps {
        for (done, step) in steps.iter().enumerate() {
            let made = match step {
                SequenceStep::Put(put, version) => {
                    self.put_object(&put.key, &put.bytes, &put.mode, *version)
                }
                SequenceStep::Complete(upload) => self.complete_unlogged(upload),
            };
            if let Err(error) = made {
                return MadeSteps { done, failed: Some(error) };
            }
        }
        MadeSteps { done: steps.len(), failed: None }
    }

    /// Makes all steps by way of the log. `None`, and nothing is done: that is full, or a step after
    /// the first cannot be made.
    fn make_logged(&self, log: &Wal, steps: &[SequenceStep<'_>]) -> Result<Option<MadeSteps>> {
        let modified = self.clock.now();
        let mut claims = None;
        for (index, step) in steps.iter().enumerate() {
            let checked = match step {
                SequenceStep::Put(put, _) => self.check_mode(&put.key, &put.mode),
                SequenceStep::Complete(upload) => self.claims(upload).map(|of| claims = Some(of)),
            };
            if let Err(error) = checked {
                return refused(index, error);
            }
        }
        let _claim_held = claims.as_ref().map(|claims| claims.exclusive());
        let mut staged = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            match self.stage_step(step, claims.as_deref(), modified) {
                Ok(step) => staged.push(step),
                Err(error) => return refused(index, error),
            }
        }
        let keys = || steps.iter().map(|step| step.key().as_str());
        let folders: Vec<_> = keys().map(parent).collect();
        self.folders.within_all(&folders, || {
            let _held = self.keys.all_exclusive(keys());
            for (index, step) in steps.iter().enumerate() {
                if let Err(error) = self.check_step(step) {
                    return refused(index, error);
                }
            }
            self.show_logged(log, std::mem::take(&mut staged), modified)
        })
    }

    /// Writes or syncs the file that is to have the key's name.
    fn stage_step<'c>(
        &self,
        step: &SequenceStep<'c>,
        claims: Option<&UploadClaims>,
        modified: SystemTime,
    ) -> Result<StagedStep<'c>> {
        match *step {
            SequenceStep::Complete(upload) => {
                let absent = || Error::new(ErrorKind::NotFound, &upload.key);
                let claims = claims.ok_or_else(absent)?;
                self.stage_completion(upload, claims, modified)?;
                Ok(StagedStep::Complete(upload, claims.name()))
            }
            SequenceStep::Put(put, version) => {
                let temporary = self.folders.within(parent(put.key.as_str()), |folder| {
                    self.write_temporary((&put.key, folder), &put.bytes, &put.mode, modified)
                })?;
                Ok(StagedStep::Put(put, version, temporary))
            }
        }
    }

    /// Whether a step may be made now. Its key is held.
    fn check_step(&self, step: &SequenceStep<'_>) -> Result<()> {
        match step {
            SequenceStep::Put(put, _) => self.check_held(&put.key, &put.mode),
            SequenceStep::Complete(upload) => self.check_free(&upload.key),
        }
    }

    /// Writes steps to the log, and gives their files their names, up to the first that cannot have
    /// it. Claims, folders and keys are held. `None`: the log is full.
    fn show_logged(
        &self,
        log: &Wal,
        staged: Vec<StagedStep<'_>>,
        modified: SystemTime,
    ) -> Result<Option<MadeSteps>> {
        let Some(first) = staged.first().map(|step| step.key().clone()) else { return Ok(None) };
        let logged = match log.write(staged.iter().map(|step| step.entry(modified)).collect()) {
            Ok(logged) => logged,
            Err(WalRefusal::Full) => return Ok(None),
            Err(WalRefusal::Failed(error)) => return Err(failure::ambiguous(&first, error)),
        };
        let (mut done, mut failed, mut unshown) = (0, None, Vec::new());
        for step in staged {
            let paths = step.paths();
            let shown = if failed.is_none() { self.show_step(step) } else { Ok(()) };
            failed = failed.or(shown.err());
            match failed {
                None => done += 1,
                Some(_) => unshown.extend(paths),
            }
        }
        drop(logged);
        if !unshown.is_empty() {
            let unshown: Vec<_> = unshown.iter().map(String::as_str).collect();
            self.retract(log, &first, &unshown)?;
        }
        Ok(Some(MadeSteps { done, failed }))
    }

    fn show_step(&self, step: StagedStep<'_>) -> Result<()> {
        let key = step.key().clone();
        let path = self.path(&key);
        let show = |renamed: io::Result<()>| {
            self.appeared(&key, &renamed);
            renamed.map_err(|error| taken(&key, &path, error))
        };
        match step {
            StagedStep::Put(put, version, mut temporary) => {
                show(temporary.rename(&path))?;
                self.read_next(&key, &put.bytes, version, &temporary);
            }
            StagedStep::Complete(upload, name) => {
                show(self.disk.rename(&self.root.path().join(name), &path))?;
                self.uploads.forget(upload);
            }
        }
        Ok(())
    }
}
