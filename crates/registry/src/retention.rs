//! Retention: removes the tags that no rule of the lifecycle file keeps.
//!
//! A run works on one repository at a time: it reads the tags, and the manifests only if a tag might go. What
//! the rules remove is removed on the version that was judged, as any other delete of a tag: it stays in the
//! history, and can be restored. A preview takes the same steps and writes nothing.

mod content;
mod plan;
mod report;
mod state;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt};
use jreg_lifecycle::{LifecycleRules, RETENTION_DELAY, RetentionRun, TagDecision, TagVerdict};
use jreg_oci::{Digest, RepositoryName, RepositoryPattern, Tag};
use jreg_storage::ListRequest;

pub use plan::{PLAN_REMOVALS_MAX, PlannedRemoval, RetentionPlan};
pub use report::{
    LeftRepository, RemovalOutcome, RetentionObserver, RetentionReport, RetentionVerdict,
    VerdictStatus,
};

use self::state::JudgedRepository;
use crate::core::Core;
use crate::pace::paced;
use crate::pulls::{PULLS_SLACK, PullTimes};
use crate::tag::{KnownTag, TagChange};
use crate::{ChangeId, ChangeOrigin, Error, Registry, Repository, Result, keys};

/// Which repositories a run judges, and how.
#[derive(Clone, Debug)]
pub struct RetentionOptions {
    /// Patterns, one of which a repository must match; empty: all.
    pub repositories: Vec<RepositoryPattern>,
    /// The age of a push up to which no tag is removed.
    pub delay: Duration,
    /// Whether the limit on the share of removed tags does not apply.
    pub force: bool,
    /// Maximum number of store requests a second; 0 is no limit.
    pub requests_per_second: u32,
    /// Maximum number of concurrent store requests.
    pub requests_at_once: usize,
}

impl Default for RetentionOptions {
    fn default() -> Self {
        Self {
            repositories: Vec::new(),
            delay: RETENTION_DELAY,
            force: false,
            requests_per_second: 0,
            requests_at_once: 16,
        }
    }
}

/// Why a run was not begun, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The plan is of other rules.
    #[error("the plan was made by rules {plan}, those in use are {rules}: make another plan")]
    OtherRules { plan: Digest, rules: Digest },
    #[error("this version of jreg does not know version {version} of a plan")]
    PlanVersion { version: u32 },
    #[error(
        "more than {PLAN_REMOVALS_MAX} tags would be removed: make a plan for fewer repositories"
    )]
    PlanTooLarge,
    #[error(transparent)]
    Registry(#[from] Error),
}

impl From<jreg_storage::Error> for RetentionError {
    fn from(error: jreg_storage::Error) -> Self {
        Self::Registry(error.into())
    }
}

/// The version of a tag that was judged: another push makes it another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PushedVersion {
    change: ChangeId,
    pushed: u64,
}

impl Registry {
    /// Judges tags by the rules in use, and writes nothing. With `plans`, the report has a plan of what would be
    /// removed.
    ///
    /// # Errors
    ///
    /// [`RetentionError`].
    pub async fn preview_retention(
        &self,
        options: &RetentionOptions,
        plans: bool,
        watch: &dyn RetentionObserver,
    ) -> Result<RetentionReport, RetentionError> {
        let mut pass = RetentionPass::begin(self.core(), options, watch).await?;
        pass.show_pulls().await?;
        pass.report.is_preview = true;
        pass.plan = plans.then(|| RetentionPlan::new(pass.run.at, pass.rules.hash().clone()));
        pass.work().await
    }

    /// Judges tags by the rules in use, and removes those that no rule keeps. Dropping the future stops it
    /// anywhere.
    ///
    /// # Errors
    ///
    /// [`RetentionError`].
    pub async fn run_retention(
        &self,
        options: &RetentionOptions,
        watch: &dyn RetentionObserver,
    ) -> Result<RetentionReport, RetentionError> {
        RetentionPass::begin(self.core(), options, watch).await?.work().await
    }

    /// Removes what a plan names, where it has not been pushed or changed since.
    ///
    /// # Errors
    ///
    /// [`RetentionError::OtherRules`] if the rules in use are not those of the plan; [`RetentionError`].
    pub async fn run_retention_plan(
        &self,
        plan: &RetentionPlan,
        options: &RetentionOptions,
        watch: &dyn RetentionObserver,
    ) -> Result<RetentionReport, RetentionError> {
        let mut pass = RetentionPass::begin(self.core(), options, watch).await?;
        plan.check(pass.rules.hash())?;
        for removals in plan.removals.chunk_by(|one, next| one.repository == next.repository) {
            pass.report.repositories += 1;
            pass.remove_planned(removals, plan.at).await?;
        }
        Ok(pass.report)
    }

    /// What retention does with one tag, and why; `None`: there is no such tag.
    ///
    /// # Errors
    ///
    /// [`RetentionError`].
    pub async fn explain_retention(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        options: &RetentionOptions,
    ) -> Result<Option<RetentionVerdict>, RetentionError> {
        let mut pass = RetentionPass::begin(self.core(), options, &crate::NoObserver).await?;
        pass.show_pulls().await?;
        let judged = pass.judge(name).await?;
        let verdicts = (0..).zip(&judged.judgement.verdicts);
        let found = verdicts.into_iter().find(|(_, verdict)| verdict.tag == *tag);
        Ok(found.map(|(index, verdict)| pass.shown(&judged, index, verdict)))
    }

    /// What retention does with each tag of a repository.
    pub(crate) async fn judge_repository(
        &self,
        name: &RepositoryName,
        options: &RetentionOptions,
    ) -> Result<Vec<RetentionVerdict>, RetentionError> {
        let mut pass = RetentionPass::begin(self.core(), options, &crate::NoObserver).await?;
        pass.show_pulls().await?;
        let judged = pass.judge(name).await?;
        let verdicts = judged.judgement.verdicts.iter().enumerate();
        Ok(verdicts.map(|(index, verdict)| pass.shown(&judged, index, verdict)).collect())
    }
}

/// One run, or a preview.
struct RetentionPass<'a> {
    core: Core,
    rules: Arc<LifecycleRules>,
    options: &'a RetentionOptions,
    run: RetentionRun,
    watch: &'a dyn RetentionObserver,
    report: RetentionReport,
    plan: Option<RetentionPlan>,
    /// When tags were pulled, if that is tracked and matters.
    pulls: Option<PullTimes>,
    /// Whether it matters in every repository.
    shows_pulls: bool,
}

impl<'a> RetentionPass<'a> {
    async fn begin(
        core: &Core,
        options: &'a RetentionOptions,
        watch: &'a dyn RetentionObserver,
    ) -> Result<Self, RetentionError> {
        let core = paced(core, options.requests_per_second);
        core.check_required().await?;
        let first = ListRequest { limit: 1, ..ListRequest::below(keys::CATALOG) };
        let at = core.store.list(&first).await?.date;
        let (delay, force) = (options.delay, options.force);
        let pulls_slack = PULLS_SLACK;
        let run = RetentionRun { at, delay, pulls_since: None, pulls_slack, force };
        let rules = core.lifecycle.get();
        let report = RetentionReport::new(at, rules.hash().clone());
        let pulls = match rules.need_pull_times() && core.required.has_pulls() {
            true => Some(PullTimes::open(&core).await?),
            false => None,
        };
        let shows_pulls = false;
        Ok(Self { core, rules, options, run, watch, report, plan: None, pulls, shows_pulls })
    }

    /// Reads last pulls also where no rule asks for them, to show them.
    async fn show_pulls(&mut self) -> Result<(), RetentionError> {
        self.shows_pulls = true;
        if self.pulls.is_none() && self.core.required.has_pulls() {
            self.pulls = Some(PullTimes::open(&self.core).await?);
        }
        Ok(())
    }

    async fn work(mut self) -> Result<RetentionReport, RetentionError> {
        if !self.rules.retention().is_empty() {
            let mut pages = self.core.list_pages(keys::CATALOG);
            while let Some(page) = pages.next().await? {
                for name in page.entries.iter().filter_map(|entry| keys::catalog_name(&entry.key)) {
                    self.work_on(&name).await?;
                }
            }
        }
        self.report.plan = self.plan;
        Ok(self.report)
    }

    /// Whether a run of these options looks at a repository.
    fn is_in_scope(&self, name: &RepositoryName) -> bool {
        let patterns = &self.options.repositories;
        (patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name)))
            && self.rules.retention_of(name).is_some()
    }

    async fn work_on(&mut self, name: &RepositoryName) -> Result<(), RetentionError> {
        if !self.is_in_scope(name) {
            self.report.unmatched += 1;
            return Ok(());
        }
        self.report.repositories += 1;
        let judged = match self.judge(name).await {
            Ok(judged) => judged,
            Err(Error::Damaged { key, reason }) => {
                self.report.damaged += 1;
                let reason = format!("{key} cannot be read ({reason}): no tag is removed");
                self.watch.left(&LeftRepository { repository: name.clone(), tags: 0, reason });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.report.count(&judged);
        if let Some(withheld) = judged.judgement.withheld {
            let (repository, reason) = (name.clone(), withheld.to_string());
            self.watch.left(&LeftRepository { repository, tags: withheld.removals as u64, reason });
        }
        match self.report.is_preview {
            true => self.show(&judged),
            false => {
                self.remove_judged(&judged).await;
                Ok(())
            }
        }
    }

    /// Reports every verdict, and adds the removals to the plan.
    fn show(&mut self, judged: &JudgedRepository) -> Result<(), RetentionError> {
        for (index, verdict) in judged.judgement.verdicts.iter().enumerate() {
            self.watch.verdict(&self.shown(judged, index, verdict));
        }
        for (index, verdict) in judged.removals() {
            self.report.removed += 1;
            let Some(plan) = &mut self.plan else { continue };
            let Some(version) = judged.version(index) else { continue };
            plan.add(PlannedRemoval {
                repository: judged.state.name.clone(),
                tag: verdict.tag.clone(),
                digest: verdict.digest.clone(),
                change: version.change,
                pushed: version.pushed,
            })?;
        }
        Ok(())
    }

    async fn remove_judged(&mut self, judged: &JudgedRepository) {
        let name = &judged.state.name;
        let versions = judged.removals().filter_map(|(index, verdict)| {
            judged.version(index).map(|version| (name, &verdict.tag, version))
        });
        let outcomes = self.remove_each(versions.collect()).await;
        for ((index, verdict), outcome) in judged.removals().zip(outcomes) {
            self.report.count_removal(outcome);
            let shown = self.shown(judged, index, verdict);
            self.watch.verdict(&RetentionVerdict { outcome: Some(outcome), ..shown });
        }
    }

    /// Removes planned tags of one repository, but for those that were pulled since the plan was made.
    async fn remove_planned(
        &mut self,
        removals: &[PlannedRemoval],
        planned_at: u64,
    ) -> Result<(), RetentionError> {
        let (pulled, left): (Vec<_>, Vec<_>) = {
            let is_pulled = self.pulled_since(removals, planned_at).await?;
            let planned = removals.iter().zip(is_pulled);
            planned.partition(|(_, is_pulled)| *is_pulled)
        };
        let versions = left.iter().map(|(planned, _)| {
            let version = PushedVersion { change: planned.change, pushed: planned.pushed };
            (&planned.repository, &planned.tag, version)
        });
        let outcomes = self.remove_each(versions.collect()).await;
        let pulled = pulled.into_iter().map(|(planned, _)| (planned, RemovalOutcome::Changed));
        let left = left.into_iter().map(|(planned, _)| planned);
        for (planned, outcome) in left.zip(outcomes).chain(pulled) {
            self.report.tags += 1;
            self.report.count_removal(outcome);
            self.watch.verdict(&planned.verdict(outcome));
        }
        Ok(())
    }

    /// Whether each of the planned tags of one repository was pulled since this time.
    async fn pulled_since(
        &self,
        removals: &[PlannedRemoval],
        planned_at: u64,
    ) -> Result<Vec<bool>, RetentionError> {
        let (Some(pulls), Some(first)) = (&self.pulls, removals.first()) else {
            return Ok(vec![false; removals.len()]);
        };
        let tags: Vec<_> = removals.iter().map(|planned| (&planned.tag, &planned.digest)).collect();
        let last = pulls.of(&first.repository, &tags).await?;
        let is_later = |pulled: Option<SystemTime>| {
            pulled.is_some_and(|pulled| seconds(pulled) + MINUTE_S > planned_at)
        };
        Ok(last.times.into_iter().map(is_later).collect())
    }

    /// Removes several at a time; in their order.
    async fn remove_each(
        &self,
        versions: Vec<(&RepositoryName, &Tag, PushedVersion)>,
    ) -> Vec<RemovalOutcome> {
        let removals =
            versions.into_iter().map(|(name, tag, version)| self.remove(name, tag, version));
        let removals: Vec<_> = removals.collect();
        stream::iter(removals).buffered(self.width()).collect().await
    }

    /// Removes the version of a tag that was judged. What changed since stays.
    async fn remove(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        judged: PushedVersion,
    ) -> RemovalOutcome {
        // What is read before is too old to be archived.
        let window = self.core.open_window();
        let seen = match self.core.find_record(&keys::tag(name, tag)).await {
            Ok(seen) => seen,
            Err(_) => return RemovalOutcome::Failed,
        };
        if PushedVersion::of(&seen) != Some(judged) {
            return RemovalOutcome::Changed;
        }
        let repository = Repository {
            core: Arc::new(self.core.clone()),
            name: name.clone(),
            origin: Arc::new(ChangeOrigin::program("retention")),
            // The tag was judged by the same rules, which know tags that are immutable and expire.
            rules: Arc::default(),
            shows_mirrored: false,
        };
        let known = KnownTag { seen, is_archived: false, queued: None, window };
        match repository.change_tag(tag, None, Some(known), TagChange::RemoveKnown).await {
            Ok(Some(_)) => RemovalOutcome::Removed,
            Ok(None) => RemovalOutcome::Changed,
            Err(error) => {
                tracing::warn!(%name, %tag, error = %error, "retention cannot remove a tag; retrying in the next run");
                RemovalOutcome::Failed
            }
        }
    }

    /// The verdict on a tag, with its reason as a sentence.
    fn shown(
        &self,
        judged: &JudgedRepository,
        index: usize,
        verdict: &TagVerdict,
    ) -> RetentionVerdict {
        let mut shown = RetentionVerdict::new(&judged.state.name, verdict, self.run.at);
        shown.reason = self.rules.explain(judged.judgement.entry, verdict);
        if judged.version(index).is_none() {
            // The placeholder of a record that cannot be read.
            shown.digest = None;
        }
        if verdict.decision == TagDecision::Remove {
            shown.only_bytes = judged.bytes.get(&index).copied();
            if let Some(withheld) = judged.judgement.withheld {
                shown.outcome = Some(RemovalOutcome::Withheld);
                shown.reason = format!("{}; {withheld}", shown.reason);
            }
        }
        shown
    }
}

/// The time of a pull is known to the minute.
const MINUTE_S: u64 = 60;

/// Seconds of the Unix epoch as a time.
fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
