//! [`ImmutableRules`]: which tags may neither move nor be deleted.

use std::fmt;

use jreg_oci::{Digest, RepositoryName, RepositoryPattern, Tag, TagPattern};

use crate::sentence::abridged;

/// The rules about immutable tags, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImmutableRules(Vec<ImmutableRule>);

/// Tags that are immutable in the repositories that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImmutableRule {
    pub repositories: Vec<RepositoryPattern>,
    pub tags: Vec<TagPattern>,
    /// Exceptions from [`ImmutableRule::tags`].
    pub except: Vec<TagPattern>,
    /// Whether retention may remove them.
    pub expires: bool,
}

/// How an error names a rule: its number in the file, and its patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImmutableRuleName {
    /// From 1.
    pub number: usize,
    tags: String,
    repositories: String,
}

impl fmt::Display for ImmutableRuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "immutable rule {}: {} in {}", self.number, self.tags, self.repositories)
    }
}

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImmutableRefusal {
    #[error("tag {tag} is immutable ({rule}){}: push under another tag", points_to(.present))]
    Move {
        rule: ImmutableRuleName,
        tag: Tag,
        /// `None`: not for this client.
        present: Option<Digest>,
    },
    #[error("tag {tag} is immutable ({rule}){}: it cannot be deleted", points_to(.present))]
    DeleteTag {
        rule: ImmutableRuleName,
        tag: Tag,
        /// `None`: not for this client.
        present: Option<Digest>,
    },
    /// A manifest that an immutable tag points to, or that the manifest it points to refers to.
    #[error(
        "manifest {manifest} cannot be deleted: tag {tag} is immutable ({rule}), points to \
         {present} and needs it"
    )]
    DeleteManifest { rule: ImmutableRuleName, tag: Tag, present: Digest, manifest: Digest },
    /// The same, for a client that may not know of the tag.
    #[error("manifest {manifest} cannot be deleted: an immutable tag needs it ({rule})")]
    DeleteNeeded { rule: ImmutableRuleName, manifest: Digest },
    #[error(
        "blobs of {repository} cannot be deleted: tags there are immutable ({rule}); garbage \
         collection removes unreferenced blobs"
    )]
    DeleteBlob { rule: ImmutableRuleName, repository: RepositoryName },
}

impl ImmutableRefusal {
    /// The same without what tags point to.
    #[must_use]
    pub fn without_targets(self) -> Self {
        match self {
            Self::Move { rule, tag, .. } => Self::Move { rule, tag, present: None },
            Self::DeleteTag { rule, tag, .. } => Self::DeleteTag { rule, tag, present: None },
            Self::DeleteManifest { rule, manifest, .. } => Self::DeleteNeeded { rule, manifest },
            Self::DeleteNeeded { .. } | Self::DeleteBlob { .. } => self,
        }
    }
}

fn points_to(present: &Option<Digest>) -> String {
    present.as_ref().map(|present| format!(" and points to {present}")).unwrap_or_default()
}

impl ImmutableRules {
    pub(crate) fn new(rules: Vec<ImmutableRule>) -> Self {
        Self(rules)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn all(&self) -> &[ImmutableRule] {
        &self.0
    }

    /// The first rule by which a tag is immutable.
    pub fn judge(&self, repository: &RepositoryName, tag: &Tag) -> Option<ImmutableRuleName> {
        self.first(|rule| rule.matches(repository, tag))
    }

    /// The first rule by which a tag is immutable also to retention.
    pub fn judge_retention(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Option<ImmutableRuleName> {
        self.first(|rule| !rule.expires && rule.matches(repository, tag))
    }

    /// The first rule about a repository, in which blobs are then not deleted by clients.
    pub fn judge_repository(&self, repository: &RepositoryName) -> Option<ImmutableRuleName> {
        self.first(|rule| rule.matches_repository(repository))
    }

    fn first(&self, is_match: impl Fn(&ImmutableRule) -> bool) -> Option<ImmutableRuleName> {
        let (number, rule) = (1..).zip(&self.0).find(|(_, rule)| is_match(rule))?;
        let (tags, repositories) = (abridged(&rule.tags), abridged(&rule.repositories));
        Some(ImmutableRuleName { number, tags, repositories })
    }
}

impl ImmutableRule {
    pub fn matches_repository(&self, repository: &RepositoryName) -> bool {
        self.repositories.iter().any(|pattern| pattern.matches(repository))
    }

    pub fn matches(&self, repository: &RepositoryName, tag: &Tag) -> bool {
        self.tags.iter().any(|pattern| pattern.matches(tag))
            && !self.except.iter().any(|pattern| pattern.matches(tag))
            && self.matches_repository(repository)
    }
}
