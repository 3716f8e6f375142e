//! A repository made to order, and judged.

use std::time::{Duration, SystemTime};

use jreg_lifecycle::{
    LifecycleError, LifecycleRules, ManifestState, RepositoryState, RetentionJudgement,
    RetentionRun, TagState, TagVerdict,
};
use jreg_oci::{Algorithm, Digest};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// T0 of the tests: 2027-01-10.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_799_539_200)
}

/// T0, without a delay, and pulls are tracked since long ago.
pub(crate) fn run() -> RetentionRun {
    let pulls_since = Some(now() - 3650 * DAY);
    RetentionRun {
        at: now(),
        delay: Duration::ZERO,
        pulls_since,
        pulls_slack: Duration::ZERO,
        force: false,
    }
}

pub(crate) fn digest(image: &str) -> Digest {
    Digest::of(Algorithm::Sha256, image.as_bytes())
}

pub(crate) struct Repository(pub(crate) RepositoryState);

impl Repository {
    pub(crate) fn new(name: &str) -> Self {
        let name = name.parse().unwrap();
        Self(RepositoryState { name, tags: Vec::new(), manifests: Vec::new() })
    }

    /// A tag of an image, pushed so long ago and not pulled.
    pub(crate) fn tag(mut self, tag: &str, image: &str, age: Duration) -> Self {
        let pushed = now() - age;
        let (tag, digest) = (tag.parse().unwrap(), digest(image));
        self.0.tags.push(TagState {
            tag,
            digest,
            created: pushed,
            pushed: Some(pushed),
            pulled: None,
        });
        self
    }

    /// The last tag was pulled so long ago.
    pub(crate) fn pulled(mut self, age: Duration) -> Self {
        self.0.tags.last_mut().unwrap().pulled = Some(now() - age);
        self
    }

    /// When the last tag was pushed is not known.
    pub(crate) fn damaged(mut self) -> Self {
        self.0.tags.last_mut().unwrap().pushed = None;
        self
    }

    pub(crate) fn manifest(
        mut self,
        image: &str,
        children: &[&str],
        subject: Option<&str>,
    ) -> Self {
        let children = children.iter().map(|child| digest(child)).collect();
        let (digest, subject) = (digest(image), subject.map(digest));
        self.0.manifests.push(ManifestState { digest, children, subject });
        self
    }

    pub(crate) fn judge(&self, rules: &str) -> RetentionJudgement {
        self.judge_at(rules, &run())
    }

    pub(crate) fn judge_at(&self, rules: &str, run: &RetentionRun) -> RetentionJudgement {
        parse(rules).unwrap().judge(&self.0, run)
    }

    /// The names of the tags that stay and of those that go, in the order of the tags.
    pub(crate) fn split(&self, rules: &str) -> (Vec<String>, Vec<String>) {
        let judgement = self.judge(rules);
        assert_eq!(judgement.withheld, None);
        let gone: Vec<_> = judgement.removals().map(|verdict| verdict.tag.to_string()).collect();
        let all = self.0.tags.iter().map(|tag| tag.tag.to_string());
        (all.filter(|tag| !gone.contains(tag)).collect(), gone)
    }
}

/// The rules of a file without its last line.
pub(crate) fn parse(rules: &str) -> Result<LifecycleRules, LifecycleError> {
    LifecycleRules::parse(&format!("{rules}\n[end]\n"))
}

/// The verdict on one tag.
pub(crate) fn of<'a>(judgement: &'a RetentionJudgement, tag: &str) -> &'a TagVerdict {
    judgement.verdicts.iter().find(|verdict| verdict.tag.as_str() == tag).unwrap()
}
