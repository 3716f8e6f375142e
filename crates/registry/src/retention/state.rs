//! What retention judges: the tags of one repository, and if any might go, its manifests.

use std::collections::{HashMap, HashSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_lifecycle::{
    ManifestState, RepositoryState, RetentionJudgement, RetentionRun, TagDecision, TagState,
    TagVerdict,
};
use jreg_oci::{Algorithm, Digest, RepositoryName, Tag};

use super::content::ManifestContent;
use super::{PushedVersion, RetentionPass, content, time};
use crate::damaged::FoundRecord;
use crate::keys::{self, ParsedKey};
use crate::tag::TagVersion;
use crate::tag_record::{TagRecord, is_deleted_tag};
use crate::{Result, tag_record::TagTarget};

/// A repository with the judgement on its tags.
pub(super) struct JudgedRepository {
    pub(super) state: RepositoryState,
    /// In the order of the tags; `None`: the record cannot be read.
    versions: Vec<Option<PushedVersion>>,
    pub(super) judgement: RetentionJudgement,
    /// By the index of a tag that the rules remove: bytes of this repository that only it references.
    pub(super) bytes: HashMap<usize, u64>,
    /// The same of all of them together.
    pub(super) bytes_together: u64,
}

impl JudgedRepository {
    pub(super) fn version(&self, index: usize) -> Option<PushedVersion> {
        self.versions.get(index).copied().flatten()
    }

    /// What is removed, with the index of each tag.
    pub(super) fn removals(&self) -> impl Iterator<Item = (usize, &TagVerdict)> {
        let is_withheld = self.judgement.withheld.is_some();
        let verdicts = self.judgement.verdicts.iter().enumerate();
        verdicts.filter(move |(_, verdict)| verdict.decision == TagDecision::Remove && !is_withheld)
    }
}

impl PushedVersion {
    pub(super) fn of(seen: &TagVersion) -> Option<Self> {
        seen.target().map(Self::of_target)
    }

    fn of_target(target: &TagTarget) -> Self {
        Self { change: target.change.id, pushed: target.pushed }
    }
}

impl RetentionPass<'_> {
    /// Judges the tags of a repository. Manifests only protect: they are read only if a tag would go without
    /// them.
    pub(super) async fn judge(&self, name: &RepositoryName) -> Result<JudgedRepository> {
        let (mut state, versions) = self.read_tags(name).await?;
        let run = self.read_pulls(&mut state).await?;
        let mut judgement = self.rules.judge(&state, &run);
        let (mut bytes, mut bytes_together) = (HashMap::new(), 0);
        let is_removed = |verdict: &TagVerdict| verdict.decision == TagDecision::Remove;
        if judgement.verdicts.iter().any(is_removed) {
            let manifests = self.read_manifests(name).await?;
            state.manifests.extend(manifests.iter().map(ManifestContent::state));
            judgement = self.rules.judge(&state, &run);
            let removed: Vec<_> = judgement.verdicts.iter().map(is_removed).collect();
            (bytes, bytes_together) = content::only_bytes(&state.tags, &removed, &manifests);
        }
        Ok(JudgedRepository { state, versions, judgement, bytes, bytes_together })
    }

    /// Reads when the tags were pulled, if a rule asks for it, or it is shown.
    async fn read_pulls(&self, state: &mut RepositoryState) -> Result<RetentionRun> {
        let mut run = self.run;
        let entry = self.rules.retention_of(&state.name);
        let is_needed = entry.is_some_and(|(_, entry)| entry.needs_pull_times());
        let Some(pulls) = self.pulls.as_ref().filter(|_| is_needed || self.shows_pulls) else {
            return Ok(run);
        };
        let tags: Vec<_> = state.tags.iter().map(|tag| (&tag.tag, &tag.digest)).collect();
        let last = pulls.of(&state.name, &tags).await?;
        for (tag, pulled) in state.tags.iter_mut().zip(last.times) {
            tag.pulled = pulled;
        }
        run.pulls_since = last.since;
        Ok(run)
    }

    async fn read_tags(
        &self,
        name: &RepositoryName,
    ) -> Result<(RepositoryState, Vec<Option<PushedVersion>>)> {
        let mut state =
            RepositoryState { name: name.clone(), tags: Vec::new(), manifests: Vec::new() };
        let mut versions = Vec::new();
        let mut pages = self.core.list_pages(keys::tags(name));
        while let Some(page) = pages.next().await? {
            let listed = page.entries.into_iter().filter(|entry| !is_deleted_tag(entry));
            let tags: Vec<_> = listed.filter_map(|entry| keys::tag_of(&entry.key)).collect();
            let reads = tags.into_iter().map(|tag| async move {
                let seen = self.core.find_record::<TagRecord>(&keys::tag(name, &tag)).await?;
                Ok::<_, crate::Error>((tag, seen))
            });
            let reads: Vec<_> = reads.collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            while let Some((tag, seen)) = reads.try_next().await? {
                match &seen {
                    FoundRecord::Damaged(_) => {
                        let (tag, manifest) = self.damaged_tag(name, tag).await?;
                        state.tags.push(tag);
                        state.manifests.push(manifest);
                        versions.push(None);
                    }
                    _ => {
                        let Some(target) = seen.target() else { continue };
                        state.tags.push(tag_state(tag, target));
                        versions.push(Some(PushedVersion::of_target(target)));
                    }
                }
            }
        }
        Ok((state, versions))
    }

    /// A tag whose record cannot be read. It may point to any manifest that a hint of it names: they stay as if
    /// they were the children of what it points to.
    async fn damaged_tag(
        &self,
        name: &RepositoryName,
        tag: Tag,
    ) -> Result<(TagState, ManifestState)> {
        let digest = Digest::of(Algorithm::Sha256, keys::tag(name, &tag).as_str().as_bytes());
        let mut children = Vec::new();
        let mut pages = self.core.list_pages(keys::all_tagged(name));
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Hint(_, of, hinted)) if hinted == tag => children.push(of),
                    _ => {}
                }
            }
        }
        let manifest = ManifestState { digest: digest.clone(), children, subject: None };
        Ok((TagState { tag, digest, created: time(0), pushed: None, pulled: None }, manifest))
    }

    async fn read_manifests(&self, name: &RepositoryName) -> Result<Vec<ManifestContent>> {
        let mut listed = Vec::new();
        let mut pages = self.core.list_pages(keys::manifests(name));
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                if let Some(ParsedKey::Manifest(_, digest)) = ParsedKey::parse(&entry.key) {
                    listed.push(digest);
                }
            }
        }
        let present: HashSet<_> = listed.iter().collect();
        let reads = listed.iter().map(|digest| content::read(&self.core, name, digest, &present));
        let reads: Vec<_> = reads.collect();
        let read = stream::iter(reads).buffered(self.width());
        read.try_filter_map(|found| async { Ok(found) }).try_collect().await
    }

    pub(super) fn width(&self) -> usize {
        self.options.requests_at_once.max(1)
    }
}

fn tag_state(tag: Tag, target: &TagTarget) -> TagState {
    let pushed = time(target.pushed);
    TagState {
        tag,
        digest: target.digest.clone(),
        // Records of earlier versions do not say it.
        created: target.created.map_or(pushed, time),
        pushed: Some(pushed),
        pulled: None,
    }
}
