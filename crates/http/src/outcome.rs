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
