//! Which tags belong to manifests that are kept: children, referrers, signatures by name.

use std::collections::{HashMap, VecDeque};

use jreg_oci::Digest;

use crate::repository::RepositoryState;
use crate::verdict::TagRelation;

/// Why a manifest or tag stays: its relation to a manifest that is kept, and by which tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelationCause<'a> {
    pub(crate) relation: TagRelation,
    pub(crate) of: &'a Digest,
    /// Index of the tag.
    pub(crate) root: usize,
}

/// The references of a repository, from the side of what is referred to.
struct ReferenceGraph<'a> {
    children: HashMap<&'a Digest, Vec<&'a Digest>>,
    referrers: HashMap<&'a Digest, Vec<&'a Digest>>,
    /// Indexes of the tags that belong to a manifest by their name.
    signatures: HashMap<Digest, Vec<usize>>,
}

impl<'a> ReferenceGraph<'a> {
    fn new(state: &'a RepositoryState) -> Self {
        let mut graph = Self {
            children: HashMap::new(),
            referrers: HashMap::new(),
            signatures: HashMap::new(),
        };
        for manifest in &state.manifests {
            if !manifest.children.is_empty() {
                graph.children.entry(&manifest.digest).or_default().extend(&manifest.children);
            }
            if let Some(subject) = &manifest.subject {
                graph.referrers.entry(subject).or_default().push(&manifest.digest);
            }
        }
        for (index, tag) in state.tags.iter().enumerate() {
            if let Some(subject) = tag.subject_by_name() {
                graph.signatures.entry(subject).or_default().push(index);
            }
        }
        graph
    }
}

/// For each tag, why it stays beside the tags of which `stays` says so: the least set that has these
/// tags, with a manifest its children and referrers, and with a manifest the tags that belong to it by
/// their name.
pub(crate) fn related_tags<'a>(
    state: &'a RepositoryState,
    stays: impl Fn(usize) -> bool,
) -> Vec<Option<RelationCause<'a>>> {
    let graph = ReferenceGraph::new(state);
    // Manifests that are kept, by the tag that they were reached from.
    let mut kept: HashMap<&Digest, usize> = HashMap::new();
    let mut related: HashMap<&Digest, RelationCause<'a>> = HashMap::new();
    let mut by_name: Vec<Option<RelationCause<'a>>> = vec![None; state.tags.len()];
    let mut queue = VecDeque::new();
    for (index, tag) in state.tags.iter().enumerate().filter(|(index, _)| stays(*index)) {
        if kept.insert(&tag.digest, index).is_none() {
            queue.push_back((&tag.digest, index));
        }
    }
    while let Some((of, root)) = queue.pop_front() {
        let cause = |relation| RelationCause { relation, of, root };
        let children = graph.children.get(of).into_iter().flatten();
        let referrers = graph.referrers.get(of).into_iter().flatten();
        let children = children.map(|child| (*child, TagRelation::Child));
        let neighbours = children.chain(referrers.map(|of| (*of, TagRelation::Referrer)));
        for (digest, relation) in neighbours {
            related.entry(digest).or_insert_with(|| cause(relation));
            if kept.insert(digest, root).is_none() {
                queue.push_back((digest, root));
            }
        }
        for &index in graph.signatures.get(of).into_iter().flatten() {
            let (Some(place), Some(tag)) = (by_name.get_mut(index), state.tags.get(index)) else {
                continue;
            };
            place.get_or_insert_with(|| cause(TagRelation::Signature));
            if kept.insert(&tag.digest, root).is_none() {
                queue.push_back((&tag.digest, root));
            }
        }
    }
    let tags = state.tags.iter().zip(by_name);
    tags.map(|(tag, by_name)| by_name.or_else(|| related.get(&tag.digest).copied())).collect()
}
