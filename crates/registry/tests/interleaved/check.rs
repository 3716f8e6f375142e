//! What must hold after any interleaving.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_oci::{Digest, Reference};
use jreg_registry::{Registry, TouchPolicy};
use jreg_storage::ByteRange;

use crate::content::digest;
use crate::ledger::{KEPT, LedgerRecords, PushRecord, PushedContent};
use crate::view::{RepositoryContent, StoreView};

type CheckResult = Result<(), String>;

/// Holds the store against what was acknowledged.
pub(crate) fn check(view: &StoreView, records: &LedgerRecords, now: Duration) -> CheckResult {
    if let Some(fault) = records.fault() {
        return Err(fault.clone());
    }
    check_links(view)?;
    check_manifests(view, records)?;
    check_tags(view, records)?;
    for push in records.acked() {
        check_push(view, records, push, now)?;
    }
    Ok(())
}

/// No live link references bytes that are missing, or other bytes.
fn check_links(view: &StoreView) -> CheckResult {
    for ((name, of), link) in &view.links {
        let Some((location, size_bytes)) = link else { continue };
        let Some(bytes) = view.blobs.get(location) else {
            return Err(format!("the link of {of} in {name} names missing bytes"));
        };
        if bytes.len() as u64 != *size_bytes || digest(bytes) != *of {
            return Err(format!("the link of {of} in {name} names other bytes"));
        }
    }
    Ok(())
}

/// What a manifest references is there, and the referrers of its subject include it.
fn check_manifests(view: &StoreView, records: &LedgerRecords) -> CheckResult {
    for ((name, of), manifest) in &view.manifests {
        let own = PushedContent::Manifest(name.clone(), of.clone());
        let began = records.began(&own, of);
        for reference in manifest.references.iter().map(|reference| &reference.digest) {
            let named = (name.clone(), reference.clone());
            if !view.holds(&named) && !is_deleted(records, &named, began) {
                return Err(format!("{reference}, which {of} in {name} names, is missing"));
            }
        }
        let Some(subject) = &manifest.subject else { continue };
        let entry = ((name.clone(), subject.digest.clone()), of.clone());
        if records.is_acked(&own)
            && !view.referrers.contains(&entry)
            && !records.excuses(&own, began)
        {
            return Err(format!("{of} in {name} is not listed as a referrer"));
        }
    }
    Ok(())
}

fn is_deleted(records: &LedgerRecords, (name, of): &RepositoryContent, began: u64) -> bool {
    let things = [
        PushedContent::Blob(name.clone(), of.clone()),
        PushedContent::Manifest(name.clone(), of.clone()),
    ];
    things.iter().any(|thing| records.excuses(thing, began))
}

/// A tag leads somewhere.
fn check_tags(view: &StoreView, records: &LedgerRecords) -> CheckResult {
    for ((name, tag), target) in &view.tags {
        let manifest = (name.clone(), target.clone());
        let began = records.began(&PushedContent::Tag(name.clone(), tag.clone()), target);
        let excused =
            records.excuses(&PushedContent::Manifest(name.clone(), target.clone()), began);
        if !view.manifests.contains_key(&manifest) && !excused {
            return Err(format!("{tag} in {name} leads to a manifest that is missing"));
        }
    }
    Ok(())
}

/// Every tag leads somewhere, also beside deletes.
pub(crate) fn check_tags_lead(view: &StoreView) -> CheckResult {
    for ((name, tag), target) in &view.tags {
        if !view.manifests.contains_key(&(name.clone(), target.clone())) {
            return Err(format!("{tag} in {name} leads to a manifest that is missing"));
        }
    }
    Ok(())
}

/// What was acknowledged is there: a tag for ever, the rest for a while, or for as long as
/// something keeps it.
fn check_push(
    view: &StoreView,
    records: &LedgerRecords,
    push: &PushRecord,
    now: Duration,
) -> CheckResult {
    let is_recent = now <= push.began_at + KEPT;
    let is_there = match &push.thing {
        PushedContent::Blob(name, of) => !is_recent || view.holds(&(name.clone(), of.clone())),
        PushedContent::Manifest(name, of) => {
            !is_recent || view.manifests.contains_key(&(name.clone(), of.clone()))
        }
        PushedContent::Tag(name, tag) => {
            let target = view.tags.get(&(name.clone(), tag.clone()));
            let is_gone = PushedContent::Manifest(name.clone(), push.digest.clone());
            target == Some(&push.digest)
                || records.may_have_moved(push)
                || records.excuses(&is_gone, push.began)
        }
    };
    if is_there || records.excuses(&push.thing, push.began) {
        return Ok(());
    }
    Err(format!("{:?} was acknowledged and is gone", push.thing))
}

/// A referrer whose subject has always been there is there.
pub(crate) fn check_referrer(
    view: &StoreView,
    name: &str,
    subject: &str,
    referrer: &str,
) -> CheckResult {
    let content = |manifest: &str| (name.to_owned(), digest(manifest.as_bytes()));
    let is_lost = view.manifests.contains_key(&content(subject))
        && !view.manifests.contains_key(&content(referrer));
    if is_lost { Err("a referrer went while its subject stays".to_owned()) } else { Ok(()) }
}

/// A blob that nobody pushes has no link after its delete was acknowledged.
pub(crate) fn check_deleted(
    view: &StoreView,
    records: &LedgerRecords,
    name: &str,
    of: &Digest,
) -> CheckResult {
    let is_deleted = records.is_deleted(&PushedContent::Blob(name.to_owned(), of.clone()));
    match is_deleted && view.holds(&(name.to_owned(), of.clone())) {
        true => Err(format!("{of} in {name} was deleted and is back")),
        false => Ok(()),
    }
}

/// After a while, and some collections: nothing is left that nothing keeps.
pub(crate) fn check_clean(view: &StoreView, stays: bool) -> CheckResult {
    let is_named = |content: &RepositoryContent| {
        let others = view.manifests.iter().filter(|((name, _), _)| *name == content.0);
        others.flat_map(|(_, m)| &m.references).any(|reference| reference.digest == content.1)
    };
    let left = |what: String| Err(format!("{what} is left"));
    for (content, link) in &view.links {
        match link {
            Some(_) if !is_named(content) => return left(format!("the link {content:?}")),
            None if !stays => return left(format!("the deleted link {content:?}")),
            _ => {}
        }
    }
    for key in view.blobs.keys() {
        if !view.links.values().flatten().any(|(location, _)| location == key) {
            return left(key.clone());
        }
    }
    for (content, manifest) in &view.manifests {
        let (name, of) = content;
        let is_tagged = view.tags.iter().any(|((at, _), to)| at == name && to == of);
        let subject = manifest.subject.as_ref().map(|s| (name.clone(), s.digest.clone()));
        let is_kept = subject.is_some_and(|subject| view.manifests.contains_key(&subject));
        if !is_tagged && !is_named(content) && !is_kept {
            return left(format!("the manifest {content:?}"));
        }
    }
    for ((name, tag), target) in &view.tags {
        if !view.manifests.contains_key(&(name.clone(), target.clone())) {
            return left(format!("the tag {tag} in {name}"));
        }
    }
    check_orphans(view, stays)
}

fn check_orphans(view: &StoreView, stays: bool) -> CheckResult {
    let left = |what: String| Err(format!("{what} is left"));
    for (content, tag) in &view.hints {
        let points_to = view.tags.get(&(content.0.clone(), tag.clone()));
        if points_to.is_none() || !view.manifests.contains_key(content) {
            return left(format!("the hint {tag} {content:?}"));
        }
    }
    for (subject, own) in &view.referrers {
        if !view.manifests.contains_key(&(subject.0.clone(), own.clone())) {
            return left(format!("the entry of {own}"));
        }
    }
    for name in &view.catalog {
        if !stays && !view.manifests.keys().any(|(at, _)| at == name) {
            return left(format!("{name} in the catalog"));
        }
    }
    if let Some(of) = view.deleted_tags.first().filter(|_| !stays) {
        return left(format!("the record of the deleted tag {of:?}"));
    }
    for ((name, tag, change), target) in &view.history {
        // Archived by a request that has not replaced it in the end.
        let of = (name.clone(), tag.clone());
        let is_current = target.is_some() && view.tags.get(&of) == target.as_ref();
        if !is_current {
            return left(format!("{change} {target:?} of the history of {tag} in {name}"));
        }
    }
    if let Some(of) = view.copies.keys().chain(&view.purged).next() {
        return left(format!("a copy or mark of {of:?}"));
    }
    match view.uploads.iter().chain(&view.queue).next() {
        Some(key) => left(key.clone()),
        None => Ok(()),
    }
}

/// Pulls what every tag leads to, as a client does, as far as it is there.
pub(crate) async fn pull_all(view: &StoreView, registry: &Registry) -> CheckResult {
    for (name, tag) in view.tags.keys() {
        let repository = registry.repository(name.parse().unwrap());
        // One that leads nowhere is a GC run's.
        let reference: Reference = tag.parse().unwrap();
        let Ok(manifest) = repository.manifest_get(&reference, TouchPolicy::Never).await else {
            continue;
        };
        if digest(&manifest.bytes) != manifest.digest {
            return Err(format!("{tag} in {name} gives other bytes"));
        }
    }
    for ((name, of), link) in &view.links {
        if link.is_some() && pull(registry, name, of).await != Some(of.clone()) {
            return Err(format!("{of} in {name} cannot be pulled"));
        }
    }
    Ok(())
}

async fn pull(registry: &Registry, name: &str, of: &Digest) -> Option<Digest> {
    let reader = registry.repository(name.parse().unwrap()).blob_open(of).await.ok()?;
    let range = ByteRange { start: 0, end: reader.blob().size_bytes };
    let read: Vec<Bytes> = reader.read(range).await.ok()?.try_collect().await.ok()?;
    Some(digest(&read.concat()))
}
