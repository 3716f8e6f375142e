//! [`AuditOutcome`]: what an operation did beyond what its response contains.

use jreg_oci::RepositoryName;
use jreg_registry::TagTransition;

/// Results of an operation that its response does not contain, for the audit log. Sent in the
/// extensions of the response, or in the error.
#[derive(Clone, Debug)]
pub(crate) enum AuditOutcome {
    Mounted(RepositoryName),
    /// What became of each tag that the operation was about.
    TagsChanged(Vec<TagTransition>),
}

/// Logs each change of a tag.
pub(crate) fn log_changes(outcome: Option<&AuditOutcome>, by: &ChangeSource) {
    let Some(AuditOutcome::TagsChanged(transitions)) = outcome else { return };
    let ChangeSource { request_id, repository, identity } = by;
    for transition in transitions.iter().filter(|transition| transition.is_change()) {
        let TagTransition { tag, change, before, after } = transition;
        let [before, after] =
            [before, after].map(|digest| digest.as_ref().map(tracing::field::display));
        tracing::info!(
            target: "jreg::tag",
            %request_id, %repository, %tag, %change, before, after, identity, "tag changed"
        );
    }
}

/// Where changes of tags come from.
#[derive(Clone, Debug)]
pub(crate) struct ChangeSource {
    pub(crate) request_id: String,
    pub(crate) repository: RepositoryName,
    pub(crate) identity: String,
}
