//! `jreg lifecycle preview` and `run` as commands, and how they are printed.

use std::sync::Arc;

use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{RepositoryName, RepositoryPattern, Tag};
use jreg_registry::{
    LeftRepository, Registry, RemovalOutcome, RetentionObserver, RetentionOptions, RetentionPlan,
    RetentionReport, RetentionVerdict, VerdictStatus,
};
use jreg_storage::error_chain;
use serde::{Deserialize, Serialize};

use super::print::{count, number, size};
use super::{EventSender, MaintenanceContext, MaintenanceEvent};
use crate::jobs::{RetentionLog, report_retention};

/// Options of retention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRequest {
    /// Empty: all.
    pub repositories: Vec<RepositoryPattern>,
    /// Only print what would be removed.
    pub preview: bool,
    /// Whether a preview makes a plan.
    pub plans: bool,
    /// Remove what this names, and nothing else.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<RetentionPlan>,
    /// Ignore the limit on the share of removed tags.
    pub force: bool,
    /// The text of a lifecycle file, instead of the rules in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rules: Option<String>,
}

/// A tag to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainTagRequest {
    pub repository: RepositoryName,
    pub tag: Tag,
}

/// What retention does with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainTagReport {
    #[serde(flatten)]
    pub request: ExplainTagRequest,
    /// `None`: there is no such tag.
    pub verdict: Option<RetentionVerdict>,
}

impl RetentionRequest {
    /// The same without files, for the audit log.
    pub(super) fn summary(&self) -> Self {
        Self { plan: None, rules: None, ..self.clone() }
    }
}

impl RetentionObserver for EventSender {
    fn verdict(&self, verdict: &RetentionVerdict) {
        self.send(MaintenanceEvent::Tag(verdict.clone()));
    }

    fn left(&self, left: &LeftRepository) {
        self.send(MaintenanceEvent::Left(left.clone()));
    }
}

impl MaintenanceContext {
    pub(super) async fn run_retention(
        &self,
        request: RetentionRequest,
        sender: &EventSender,
    ) -> Result<RetentionReport, String> {
        let registry = self.registry_with(request.rules.as_deref())?;
        if registry.lifecycle().retention().is_empty() {
            return Err(
                "the rules in use have no [[retention]] entry: set lifecycle, or name a file \
                        with --lifecycle"
                    .to_owned(),
            );
        }
        let RetentionRequest { repositories, preview, plans, plan, force, .. } = request;
        let options = RetentionOptions { repositories, force, ..self.retention.clone() };
        if preview {
            let done = registry.preview_retention(&options, plans, sender).await;
            return done.map_err(|error| error_chain(&error));
        }
        let log = RetentionLog { audit: &self.audit, next: Some(sender) };
        let done = match plan {
            Some(plan) => registry.run_retention_plan(&plan, &options, &log).await,
            None => registry.run_retention(&options, &log).await,
        };
        report_retention(&self.metrics, &done);
        done.map_err(|error| error_chain(&error))
    }

    fn registry_with(&self, rules: Option<&str>) -> Result<Registry, String> {
        let Some(text) = rules else { return Ok(self.registry.clone()) };
        let rules = LifecycleRules::parse(text);
        let rules = rules.map_err(|error| format!("the lifecycle file is invalid: {error}"))?;
        Ok(self.registry.with_rules(CurrentRules::new(Arc::new(rules))))
    }

    pub(super) async fn explain_tag(
        &self,
        request: ExplainTagRequest,
    ) -> Result<ExplainTagReport, String> {
        let ExplainTagRequest { repository, tag } = &request;
        let verdict = self.registry.explain_retention(repository, tag, &self.retention).await;
        let verdict = verdict.map_err(|error| error_chain(&error))?;
        Ok(ExplainTagReport { request, verdict })
    }
}

/// A line for a tag.
pub(super) fn verdict_line(verdict: &RetentionVerdict) -> String {
    let RetentionVerdict { repository, tag, reason, .. } = verdict;
    let status = match verdict.status {
        VerdictStatus::Keep => "keep",
        VerdictStatus::Protected => "protected",
        VerdictStatus::Remove => "remove",
    };
    let bytes = verdict.only_bytes.map(size).unwrap_or_default();
    let outcome = match verdict.outcome {
        None | Some(RemovalOutcome::Removed) => "",
        Some(RemovalOutcome::Changed) => " (changed meanwhile, kept)",
        Some(RemovalOutcome::Withheld) => " (withheld)",
        Some(RemovalOutcome::Failed) => " (failed)",
    };
    format!("{status:<9} {bytes:>10}  {repository}:{tag}{outcome}: {reason}\n")
}

pub(super) fn left_line(left: &LeftRepository) -> String {
    format!("{}: {}\n", left.repository, left.reason)
}

pub(super) fn explained_tag(report: &ExplainTagReport) -> String {
    let ExplainTagRequest { repository, tag } = &report.request;
    match &report.verdict {
        Some(verdict) => verdict_line(verdict),
        None => format!("{repository} has no tag {tag}\n"),
    }
}

pub(super) fn retained(done: &RetentionReport) -> String {
    let removed = if done.is_preview { "would be removed" } else { "removed" };
    let mut text = format!(
        "{} in {} judged: {} kept, {} protected, {} {removed}",
        count(done.tags, "tag", "tags"),
        count(done.repositories, "repository", "repositories"),
        number(done.kept),
        number(done.protected),
        number(done.removed)
    );
    for (tags, what) in [
        (done.unevaluated, "of the kept could not be evaluated"),
        (done.withheld, "withheld (--force removes them)"),
        (done.changed, "changed meanwhile"),
        (done.failed, "failed"),
    ] {
        if tags > 0 {
            text += &format!(", {} {what}", number(tags));
        }
    }
    if done.damaged > 0 {
        let damaged = count(done.damaged, "repository", "repositories");
        text += &format!("; {damaged} cannot be read");
    }
    text += &format!("\n{} referenced by them alone\n", size(done.only_bytes));
    text
}
