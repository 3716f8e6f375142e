//! What must hold of the history of tags, of copies of deleted manifests, of purges and of immutable tags.

use std::collections::{BTreeMap, BTreeSet};

use jreg_oci::{Digest, Manifest, Tag};
use jreg_registry::{ChangeId, Registry};

use crate::instance::read_history;
use crate::ledger::{LedgerRecords, PageItem, PushedContent};
use crate::view::{RepositoryContent, StoreView};

type CheckResult = Result<(), String>;

/// Where nothing expires: histories are whole, and what they and copies keep is there.
pub(crate) async fn check_kept(
    view: &StoreView,
    records: &LedgerRecords,
    registry: &Registry,
) -> CheckResult {
    let tags: BTreeSet<_> =
        records.changes.iter().map(|(name, made)| (name.clone(), made.tag.clone())).collect();
    for (name, tag) in tags {
        let repository = registry.repository(name.parse().unwrap());
        let page = read_history(&repository, &tag).await.map_err(|error| error.to_string())?;
        check_history(records, (&name, &tag), &page)?;
    }
    check_entries(view, records)?;
    check_copies(view, records)
}

/// Every acknowledged change exactly once and in order, and no more than were requested.
fn check_history(
    records: &LedgerRecords,
    (name, tag): (&str, &Tag),
    page: &[PageItem],
) -> CheckResult {
    let is_of_it = |of: &str, changed: &Tag| of == name && changed == tag;
    if !page.windows(2).all(|pair| pair[0].0 > pair[1].0 && pair[0].1 != pair[1].1) {
        return Err(format!("the history of {tag} is not in order: {page:?}"));
    }
    for (_, made) in records.changes.iter().filter(|(of, made)| is_of_it(of, &made.tag)) {
        let at = page.iter().position(|item| *item == (made.change, made.after.clone()));
        let Some(at) = at else {
            return Err(format!("the history of {tag} lacks {made:?}: {page:?}"));
        };
        let before = page.get(at + 1).and_then(|(_, digest)| digest.clone());
        if before != made.before {
            return Err(format!("{before:?} was before {made:?}: {page:?}"));
        }
    }
    check_requested(records, (name, tag), page)?;
    for read in records.pages.iter().filter(|read| is_of_it(&read.tag.0, &read.tag.1)) {
        let from = page.len().saturating_sub(read.items.len());
        if page[from..] != read.items {
            return Err(format!("a page of {tag} was {:?}, and it is {page:?}", read.items));
        }
        let known: BTreeSet<ChangeId> = read.items.iter().map(|(change, _)| *change).collect();
        let before = records.changes.iter().take(read.known);
        for (_, made) in before.filter(|(of, made)| is_of_it(of, &made.tag)) {
            if !known.contains(&made.change) {
                return Err(format!("a page of {tag} lacks {made:?}: {:?}", read.items));
            }
        }
    }
    Ok(())
}

/// A request makes one change at most.
fn check_requested(
    records: &LedgerRecords,
    (name, tag): (&str, &Tag),
    page: &[PageItem],
) -> CheckResult {
    let mut made: BTreeMap<Option<&Digest>, usize> = BTreeMap::new();
    for (_, digest) in page {
        *made.entry(digest.as_ref()).or_default() += 1;
    }
    for (digest, changes) in made {
        let requests = match digest {
            Some(digest) => {
                let thing = PushedContent::Tag(name.to_owned(), tag.to_string());
                let pushes = records.pushes.iter();
                pushes.filter(|push| push.thing == thing && push.digest == *digest).count()
                    + records.pushes.iter().filter(|push| push.is_restore).count()
            }
            None => records.deletes_of(name, tag.as_str()),
        };
        if changes > requests {
            return Err(format!("{requests} requests made {changes} changes of {tag}: {page:?}"));
        }
    }
    Ok(())
}

/// What a tag pointed to is there.
fn check_entries(view: &StoreView, records: &LedgerRecords) -> CheckResult {
    for ((name, tag, _), target) in &view.history {
        let Some(target) = target else { continue };
        let began = records.began(&PushedContent::Tag(name.clone(), tag.clone()), target);
        let deleted = PushedContent::Manifest(name.clone(), target.clone());
        if !view.manifests.contains_key(&(name.clone(), target.clone()))
            && !records.excuses(&deleted, began)
        {
            return Err(format!("{target}, which {tag} in {name} pointed to, is missing"));
        }
    }
    Ok(())
}

/// What was deleted can be restored, and a copy has what it references.
fn check_copies(view: &StoreView, records: &LedgerRecords) -> CheckResult {
    for ((name, of), copy) in &view.copies {
        for reference in copy.references.iter().map(|reference| &reference.digest) {
            let named = (name.clone(), reference.clone());
            let things = [
                PushedContent::Blob(name.clone(), reference.clone()),
                PushedContent::Manifest(name.clone(), reference.clone()),
            ];
            if !view.holds(&named) && !things.iter().any(|thing| records.is_deleted(thing)) {
                return Err(format!("{reference}, which the copy of {of} names, is missing"));
            }
        }
    }
    let is_purged = |of: &RepositoryContent| {
        let thing = PushedContent::Manifest(of.0.clone(), of.1.clone());
        view.purged.contains(of) || records.purges.iter().any(|(purged, _)| *purged == thing)
    };
    for push in &records.pushes {
        let PushedContent::Manifest(name, of) = &push.thing else { continue };
        let of = (name.clone(), of.clone());
        if records.stays_deleted(&push.thing) && !view.copies.contains_key(&of) && !is_purged(&of) {
            return Err(format!("{of:?} was deleted and cannot be restored"));
        }
    }
    Ok(())
}

/// What was purged is gone, unless a client has pushed it.
pub(crate) fn check_purged(view: &StoreView, records: &LedgerRecords) -> CheckResult {
    for (purged, began) in &records.purges {
        let PushedContent::Manifest(name, of) = purged else { continue };
        let content = (name.clone(), of.clone());
        if view.manifests.contains_key(&content) && !records.is_pushed_since(purged, *began) {
            return Err(format!("{of} in {name} was purged and is there"));
        }
        if view.copies.contains_key(&content)
            && !view.purged.contains(&content)
            && !records.is_pushed_since(purged, *began)
        {
            return Err(format!("{of} in {name} was purged and can be restored"));
        }
    }
    Ok(())
}

/// An immutable tag points to what was acknowledged, and that is whole.
pub(crate) fn check_immutable(
    view: &StoreView,
    records: &LedgerRecords,
    needs_below: bool,
) -> CheckResult {
    for push in records.acked() {
        let PushedContent::Tag(name, tag) = &push.thing else { continue };
        if !tag.starts_with('v') {
            continue;
        }
        let target = view.tags.get(&(name.clone(), tag.clone()));
        if target != Some(&push.digest) {
            return Err(format!("{tag} in {name} points to {target:?}, not {}", push.digest));
        }
        let Some(manifest) = view.manifests.get(&(name.clone(), push.digest.clone())) else {
            return Err(format!("{tag} in {name} leads to a manifest that is missing"));
        };
        let references = |of: &Manifest| {
            of.references.iter().map(|reference| reference.digest.clone()).collect::<Vec<_>>()
        };
        let mut needed = references(manifest);
        while let Some(of) = needed.pop() {
            let content = (name.clone(), of);
            if !view.holds(&content) {
                return Err(format!("{}, which {tag} in {name} needs, is missing", content.1));
            }
            let below = view.manifests.get(&content).filter(|_| needs_below);
            needed.extend(below.map(references).unwrap_or_default());
        }
    }
    Ok(())
}
