//! The registry as a few maps: the expected outcome and effect of each operation.

use std::collections::{BTreeMap, BTreeSet};

use crate::fixtures::Fixtures;
use crate::model::fixtures::{REPOSITORIES, TAGS, TYPES};
use crate::model::operation::{By, If, Operation, Outcome, Place};

#[derive(Debug, Default)]
struct Contents {
    blobs: BTreeSet<usize>,
    manifests: BTreeSet<usize>,
    tags: BTreeMap<usize, usize>,
    was_pushed_to: bool,
}

/// An upload of a fixture blob: received bytes. `None`: cancelled or finished.
#[derive(Debug)]
struct Upload {
    repository: usize,
    blob: usize,
    offset: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Reference {
    repositories: BTreeMap<usize, Contents>,
    uploads: BTreeMap<usize, Upload>,
}

fn refuse(codes: &[&str]) -> Vec<Outcome> {
    codes.iter().map(|code| Outcome::refused(code)).collect()
}

fn page<'a>(
    names: impl Iterator<Item = &'a str>,
    limit: usize,
    last: Option<&str>,
) -> Vec<Outcome> {
    let after = names.filter(|name| last.is_none_or(|last| *name > last)).take(limit);
    vec![Outcome::Names(after.map(str::to_owned).collect())]
}

impl Reference {
    /// The possible outcomes of the operation, which is then applied. `None` if it is not
    /// applicable.
    pub(crate) fn apply(
        &mut self,
        fixtures: &Fixtures,
        operation: &Operation,
    ) -> Option<Vec<Outcome>> {
        use Operation::*;
        Some(match operation {
            PushBlob { repository, blob } => self.add_blob(*repository, *blob),
            PushWrongBytes { .. } => refuse(&["DIGEST_INVALID"]),
            Mount { repository, from, blob } if self.of(*from).blobs.contains(blob) => {
                self.add_blob(*repository, *blob)
            }
            // Existing content in the destination needs no source.
            Mount { repository, blob, .. } if self.of(*repository).blobs.contains(blob) => {
                vec![Outcome::Done]
            }
            Mount { .. } => vec![Outcome::Missed],
            DeleteBlob { repository, blob } if self.of(*repository).blobs.remove(blob) => {
                vec![Outcome::Done]
            }
            ReadBlob { repository, blob, start } if self.of(*repository).blobs.contains(blob) => {
                let bytes = &fixtures.blobs[*blob].bytes;
                vec![Outcome::Bytes(bytes.slice((*start).min(bytes.len())..))]
            }
            DeleteBlob { .. } | ReadBlob { .. } => refuse(&["BLOB_UNKNOWN"]),
            Begin { slot, repository, blob } => {
                self.uploads.insert(
                    *slot,
                    Upload { repository: *repository, blob: *blob, offset: Some(0) },
                );
                vec![Outcome::Done]
            }
            Append { slot, len, place } => return self.append(fixtures, *slot, *len, *place),
            Finish { slot, right } => return self.finish(*slot, *right),
            Cancel { slot } => {
                self.uploads.get_mut(slot)?.offset.take()?;
                vec![Outcome::Done]
            }
            Status { slot } => match self.uploads.get(slot)?.offset {
                Some(offset) => vec![Outcome::Offset(offset)],
                None => refuse(&["BLOB_UPLOAD_UNKNOWN"]),
            },
            PutManifest { .. } => self.put(fixtures, operation),
            GetManifest { repository, by } => match self.stands_at(*repository, *by) {
                Some(manifest) => vec![Outcome::Bytes(fixtures.manifests[manifest].bytes.clone())],
                None => refuse(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]),
            },
            DeleteManifest { repository, by, condition } => {
                self.delete(*repository, *by, *condition)
            }
            Tags { repository, limit, last } => match self.of(*repository) {
                Contents { was_pushed_to: false, .. } => refuse(&["NAME_UNKNOWN"]),
                contents => page(
                    contents.tags.keys().map(|tag| TAGS[*tag]),
                    *limit,
                    last.map(|tag| TAGS[tag]),
                ),
            },
            Catalog { limit, last } => {
                let pushed =
                    self.repositories.iter().filter(|(_, contents)| contents.was_pushed_to);
                page(
                    pushed.map(|(name, _)| REPOSITORIES[*name]),
                    *limit,
                    last.map(|name| REPOSITORIES[name]),
                )
            }
            Referrers { repository, subject, artifact_type } => {
                self.referrers(fixtures, *repository, *subject, *artifact_type)
            }
            Restart => vec![Outcome::Done],
        })
    }

    fn of(&mut self, repository: usize) -> &mut Contents {
        self.repositories.entry(repository).or_default()
    }

    fn add_blob(&mut self, repository: usize, blob: usize) -> Vec<Outcome> {
        self.of(repository).blobs.insert(blob);
        vec![Outcome::Done]
    }

    fn append(
        &mut self,
        fixtures: &Fixtures,
        slot: usize,
        len: usize,
        place: Place,
    ) -> Option<Vec<Outcome>> {
        let upload = self.uploads.get_mut(&slot)?;
        let Some(offset) = upload.offset else { return Some(refuse(&["BLOB_UPLOAD_UNKNOWN"])) };
        let end = fixtures.blobs[upload.blob].bytes.len().min(offset + len);
        if place == Place::Wrong {
            return Some(refuse(&["OUT_OF_ORDER"]));
        }
        upload.offset = Some(end);
        Some(vec![Outcome::Offset(end)])
    }

    fn finish(&mut self, slot: usize, right: bool) -> Option<Vec<Outcome>> {
        let upload = self.uploads.get_mut(&slot)?;
        let (repository, blob) = (upload.repository, upload.blob);
        let Some(offset) = upload.offset.take() else {
            // A repeated finish may find the result of the first; see the contract's rows.
            self.uploads.remove(&slot);
            return None;
        };
        if right && offset == 0 {
            // A blob sent whole in the finishing PUT leaves a session only if it was large.
            self.uploads.remove(&slot);
        }
        Some(if right { self.add_blob(repository, blob) } else { refuse(&["DIGEST_INVALID"]) })
    }

    fn stands_at(&mut self, repository: usize, by: By) -> Option<usize> {
        let contents = self.of(repository);
        match by {
            By::Tag(tag) => contents.tags.get(&tag).copied(),
            By::Digest(manifest) => contents.manifests.get(&manifest).copied(),
        }
    }

    fn holds(&mut self, repository: usize, by: By, condition: If) -> bool {
        let stands_at = self.stands_at(repository, by);
        match condition {
            If::Always => true,
            If::Absent => stands_at.is_none(),
            If::Present => stands_at.is_some(),
            If::Is(manifest) => stands_at == Some(manifest),
        }
    }

    fn put(&mut self, fixtures: &Fixtures, operation: &Operation) -> Vec<Outcome> {
        let Operation::PutManifest { repository, manifest, by_tag, tags, condition } = operation
        else {
            unreachable!("only called for a put")
        };
        let by = by_tag.map_or(By::Digest(*manifest), By::Tag);
        let mut wrong = Vec::new();
        if !self.holds(*repository, by, *condition) {
            wrong.push("412");
        }
        let contents = self.of(*repository);
        if !fixtures.manifests[*manifest].needs.iter().all(|blob| contents.blobs.contains(blob)) {
            wrong.push("MANIFEST_BLOB_UNKNOWN");
        }
        if !wrong.is_empty() {
            return refuse(&wrong);
        }
        contents.was_pushed_to = true;
        contents.manifests.insert(*manifest);
        let beside = if by_tag.is_none() { tags.as_slice() } else { &[] };
        contents.tags.extend(by_tag.iter().chain(beside).map(|tag| (*tag, *manifest)));
        vec![Outcome::Done]
    }

    fn delete(&mut self, repository: usize, by: By, condition: If) -> Vec<Outcome> {
        let held = self.holds(repository, by, condition);
        match (self.stands_at(repository, by), held) {
            (None, true) => refuse(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]),
            (None, false) => refuse(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "412"]),
            (Some(_), false) => refuse(&["412"]),
            (Some(manifest), true) => {
                let contents = self.of(repository);
                match by {
                    By::Tag(tag) => drop(contents.tags.remove(&tag)),
                    By::Digest(_) => {
                        contents.manifests.remove(&manifest);
                        contents.tags.retain(|_, target| *target != manifest);
                    }
                }
                vec![Outcome::Done]
            }
        }
    }

    fn referrers(
        &mut self,
        fixtures: &Fixtures,
        repository: usize,
        subject: usize,
        kind: Option<usize>,
    ) -> Vec<Outcome> {
        let wanted = kind.map(|kind| TYPES[kind]);
        let mut digests: Vec<_> = self
            .of(repository)
            .manifests
            .iter()
            .map(|manifest| &fixtures.manifests[*manifest])
            .filter(|manifest| manifest.subject() == Some(subject))
            .filter(|manifest| {
                wanted.is_none() || manifest.referrer.map(|(_, kind)| kind) == wanted
            })
            .map(|manifest| manifest.digest.to_string())
            .collect();
        digests.sort();
        vec![Outcome::Names(digests)]
    }
}
