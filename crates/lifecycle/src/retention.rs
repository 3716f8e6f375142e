//! [`RetentionEntry`]: which tags of which repositories are kept.

use std::time::Duration;

use jreg_oci::{RepositoryName, RepositoryPattern, Tag, TagPattern};

/// What is kept in the repositories that it matches; the first entry that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionEntry {
    pub repositories: Vec<RepositoryPattern>,
    /// `None`: the setting `gc-untagged` decides.
    pub untagged: Option<UntaggedRule>,
    /// A tag is kept if any of them keeps it.
    pub keeps: Vec<RetentionKeep>,
}

/// What happens to manifests without a tag that nothing references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UntaggedRule {
    Keep,
    /// Removed so long after history no longer keeps them.
    RemoveAfter(Duration),
}

/// Conditions that hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionKeep {
    /// Empty: all tags.
    pub tags: Vec<TagPattern>,
    /// Exceptions from [`RetentionKeep::tags`].
    pub except: Vec<TagPattern>,
    pub pushed_within: Option<Duration>,
    pub pulled_within: Option<Duration>,
    /// Among all tags that [`RetentionKeep::matches`].
    pub most_recent: Option<usize>,
}

impl RetentionEntry {
    pub fn matches(&self, repository: &RepositoryName) -> bool {
        self.repositories.iter().any(|pattern| pattern.matches(repository))
    }

    /// Whether it needs to know when tags are pulled.
    pub fn needs_pull_times(&self) -> bool {
        self.keeps.iter().any(|keep| keep.pulled_within.is_some())
    }
}

impl RetentionKeep {
    /// Whether its patterns match a tag, whatever its other conditions.
    pub fn matches(&self, tag: &Tag) -> bool {
        (self.tags.is_empty() || self.tags.iter().any(|pattern| pattern.matches(tag)))
            && !self.except.iter().any(|pattern| pattern.matches(tag))
    }
}
