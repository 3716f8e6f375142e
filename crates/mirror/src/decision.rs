//! The decision table: what a mirror does with a request, by what is stored here and what the mirrored
//! registry says. [`decide`] is all of it; [`table`] writes it for docs/mirror.md.
//!
//! **Must:** a *failure* of the mirrored registry is never a 404, nor an empty list.

use std::fmt::Write as _;

/// What is stored here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalState {
    Absent,
    /// Checked recently enough, or it needs no check.
    Fresh,
    /// To be checked, and young enough to be served if that fails (`stale-if-error`).
    Stale,
    /// To be checked, and too old to be served if that fails.
    Expired,
}

/// What the mirrored registry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamOutcome {
    /// It is not asked: the client may pull, and may not fetch.
    NotAsked,
    /// The digest that is stored here.
    Same,
    /// Another digest, or content that is not stored here.
    Other,
    /// 404.
    NotFound,
    /// Its token service refuses our credentials, or it does with every repository.
    CredentialsRefused,
    /// 401 or 403 for this repository, while the credentials are good elsewhere.
    RepositoryRefused,
    /// 429.
    Limited,
    /// 5xx, or its token service fails.
    Failed,
    /// No response in time.
    TimedOut,
    /// Content with another digest or size than it should have, or a manifest that a push would refuse because
    /// clients might take it for something else.
    WrongContent,
}

/// What a client names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedReference {
    Tag,
    Digest,
}

/// What a client wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedMethod {
    Head,
    Get,
}

/// What becomes of a tag that the mirrored registry has no more (`on-gone`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGone {
    /// It is forgotten: 404.
    #[default]
    NotFound,
    /// It is served on, with a warning.
    Keep,
}

/// A situation that the table decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionInput {
    pub local: LocalState,
    pub upstream: UpstreamOutcome,
    pub reference: RequestedReference,
    pub method: RequestedMethod,
    pub on_gone: OnGone,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorAction {
    /// Serve what is stored.
    Serve,
    /// Serve what is stored, with a `Warning`.
    ServeStale,
    /// Fetch it by digest, store it, serve it.
    Fetch,
    /// Respond with what the mirrored registry says of it; nothing is stored.
    Forward,
    /// 404 `MANIFEST_UNKNOWN` or `BLOB_UNKNOWN`, remembered for `negative`.
    NotFound,
    /// 404 `NAME_UNKNOWN`, remembered for `negative`.
    NameUnknown,
    /// 401 or 403: the client may not fetch.
    Refuse,
    /// 429 with `Retry-After`.
    Limited,
    /// 502.
    BadGateway,
    /// 503 with `Retry-After`.
    Unavailable,
}

/// What to do.
pub fn decide(input: DecisionInput) -> MirrorAction {
    use LocalState::{Fresh, Stale};
    use UpstreamOutcome as Is;
    let DecisionInput { local, upstream, reference, method, on_gone } = input;
    if local == Fresh {
        return MirrorAction::Serve;
    }
    let stale_or = |otherwise| if local == Stale { MirrorAction::ServeStale } else { otherwise };
    let is_stored = local != LocalState::Absent;
    match upstream {
        Is::Same if is_stored => MirrorAction::Serve,
        Is::Same | Is::Other => match (reference, method) {
            (RequestedReference::Digest, RequestedMethod::Head) => MirrorAction::Forward,
            _ => MirrorAction::Fetch,
        },
        Is::NotFound if is_stored && on_gone == OnGone::Keep => MirrorAction::ServeStale,
        Is::NotFound => MirrorAction::NotFound,
        Is::RepositoryRefused => MirrorAction::NameUnknown,
        Is::CredentialsRefused | Is::WrongContent => MirrorAction::BadGateway,
        Is::Limited => stale_or(MirrorAction::Limited),
        Is::Failed | Is::TimedOut => stale_or(MirrorAction::Unavailable),
        Is::NotAsked => stale_or(MirrorAction::Refuse),
    }
}

impl LocalState {
    pub const ALL: [Self; 4] = [Self::Absent, Self::Fresh, Self::Stale, Self::Expired];

    fn words(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Expired => "stale, older than `stale-if-error`",
        }
    }
}

impl UpstreamOutcome {
    pub const ALL: [Self; 10] = [
        Self::Same,
        Self::Other,
        Self::NotFound,
        Self::CredentialsRefused,
        Self::RepositoryRefused,
        Self::Limited,
        Self::Failed,
        Self::TimedOut,
        Self::WrongContent,
        Self::NotAsked,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::NotAsked => "not asked: the client may not `fetch`",
            Self::Same => "same digest",
            Self::Other => "other digest, or found",
            Self::NotFound => "404",
            Self::CredentialsRefused => "our credentials are refused",
            Self::RepositoryRefused => "401 or 403 for this repository",
            Self::Limited => "429",
            Self::Failed => "5xx",
            Self::TimedOut => "no response",
            Self::WrongContent => "wrong digest, size or media type",
        }
    }

    /// A short name, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Same => "same",
            Self::Other => "other",
            Self::NotFound => "not_found",
            Self::CredentialsRefused => "credentials_refused",
            Self::RepositoryRefused => "repository_refused",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::WrongContent => "wrong_content",
        }
    }

    /// Whether it says nothing about the content.
    pub fn is_failure(self) -> bool {
        match self {
            Self::Limited
            | Self::Failed
            | Self::TimedOut
            | Self::WrongContent
            | Self::CredentialsRefused
            | Self::NotAsked => true,
            Self::Same | Self::Other | Self::NotFound | Self::RepositoryRefused => false,
        }
    }
}

impl RequestedReference {
    pub const ALL: [Self; 2] = [Self::Tag, Self::Digest];
}

impl RequestedMethod {
    pub const ALL: [Self; 2] = [Self::Head, Self::Get];
}

impl MirrorAction {
    fn words(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::ServeStale => "serve with `Warning`",
            Self::Fetch => "fetch, store, serve",
            Self::Forward => "forward",
            Self::NotFound => "404 `MANIFEST_UNKNOWN`, `BLOB_UNKNOWN`",
            Self::NameUnknown => "404 `NAME_UNKNOWN`",
            Self::Refuse => "401 or 403",
            Self::Limited => "429",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
        }
    }
}

/// The table, as Markdown: a row for each stored state and response, a column for each kind of request.
/// Where `on-gone` makes a difference, both are said.
pub fn table() -> String {
    let mut table =
        "| stored | the registry says | HEAD tag | GET tag | HEAD digest | GET digest |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    let cell = |local, upstream, reference, method| {
        let action =
            |on_gone| decide(DecisionInput { local, upstream, reference, method, on_gone }).words();
        match (action(OnGone::NotFound), action(OnGone::Keep)) {
            (usual, keep) if usual == keep => usual.to_owned(),
            (usual, keep) => format!("{usual}; `on-gone = \"keep\"`: {keep}"),
        }
    };
    let row = |table: &mut String, local: LocalState, upstream: UpstreamOutcome, said: &str| {
        let _ = write!(table, "| {} | {said} |", local.words());
        for reference in RequestedReference::ALL {
            for method in RequestedMethod::ALL {
                let _ = write!(table, " {} |", cell(local, upstream, reference, method));
            }
        }
        table.push('\n');
    };
    for local in LocalState::ALL {
        if local == LocalState::Fresh {
            row(&mut table, local, UpstreamOutcome::Same, "(not asked)");
            continue;
        }
        for upstream in UpstreamOutcome::ALL {
            // What is not stored has no digest that could be the same.
            if (local, upstream) != (LocalState::Absent, UpstreamOutcome::Same) {
                row(&mut table, local, upstream, upstream.words());
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every situation with its action.
    fn all() -> impl Iterator<Item = (DecisionInput, MirrorAction)> {
        let each = |local, upstream| {
            RequestedReference::ALL.into_iter().flat_map(move |reference| {
                RequestedMethod::ALL.into_iter().flat_map(move |method| {
                    [OnGone::NotFound, OnGone::Keep].into_iter().map(move |on_gone| {
                        let input = DecisionInput { local, upstream, reference, method, on_gone };
                        (input, decide(input))
                    })
                })
            })
        };
        LocalState::ALL.into_iter().flat_map(move |local| {
            UpstreamOutcome::ALL.into_iter().flat_map(move |upstream| each(local, upstream))
        })
    }

    #[test]
    fn a_failure_is_never_absence() {
        for (input, action) in all().filter(|(input, _)| input.upstream.is_failure()) {
            let is_404 = matches!(action, MirrorAction::NotFound | MirrorAction::NameUnknown);
            assert!(!is_404, "{input:?}");
        }
    }

    #[test]
    fn absence_is_said_only_where_the_registry_says_so() {
        for (input, action) in all() {
            let is_404 = matches!(action, MirrorAction::NotFound | MirrorAction::NameUnknown);
            let says = [UpstreamOutcome::NotFound, UpstreamOutcome::RepositoryRefused];
            assert!(!is_404 || says.contains(&input.upstream), "{input:?}");
        }
    }

    #[test]
    fn stale_content_is_served_for_outages_and_limits_only() {
        for (input, action) in all().filter(|(_, action)| *action == MirrorAction::ServeStale) {
            let is_outage = matches!(
                input.upstream,
                UpstreamOutcome::Limited
                    | UpstreamOutcome::Failed
                    | UpstreamOutcome::TimedOut
                    | UpstreamOutcome::NotAsked
            );
            let is_kept =
                input.upstream == UpstreamOutcome::NotFound && input.on_gone == OnGone::Keep;
            assert!(
                is_outage && input.local == LocalState::Stale || is_kept,
                "{input:?} {action:?}"
            );
        }
    }

    #[test]
    fn what_is_fresh_is_served_and_what_is_absent_is_never_served_from_here() {
        for (input, action) in all() {
            let serves = matches!(action, MirrorAction::Serve | MirrorAction::ServeStale);
            match input.local {
                LocalState::Fresh => assert_eq!(action, MirrorAction::Serve, "{input:?}"),
                LocalState::Absent => assert!(!serves, "{input:?}"),
                LocalState::Stale | LocalState::Expired => {}
            }
        }
    }

    #[test]
    fn nothing_is_fetched_for_a_client_that_may_not() {
        for (input, action) in
            all().filter(|(input, _)| input.upstream == UpstreamOutcome::NotAsked)
        {
            assert!(!matches!(action, MirrorAction::Fetch | MirrorAction::Forward), "{input:?}");
        }
    }

    #[test]
    fn the_documentation_has_the_table() {
        let docs = include_str!("../../../docs/mirror.md");
        assert!(docs.contains(&table()), "docs/mirror.md needs this table:\n{}", table());
    }
}
