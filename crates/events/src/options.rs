//! [`SinkOptions`]: what an operator can set about a sink, as data.

use std::path::PathBuf;
use std::time::Duration;

use jreg_auth::Secret;
use jreg_oci::{RepositoryName, RepositoryPattern};
use jreg_registry::{EventAction, EventInterest, SinkName};

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkFormat {
    /// CloudEvents 1.0, structured JSON.
    #[default]
    CloudEvents,
    /// The notifications of distribution.
    Docker,
}

impl SinkFormat {
    /// The actions that a sink gets if none are set.
    pub fn default_actions(self) -> Vec<EventAction> {
        let all = EventAction::ALL.iter().copied();
        all.filter(|action| self.can_express(*action) && *action != EventAction::PullSummary)
            .collect()
    }

    /// Whether the format has a word for an action.
    pub fn can_express(self, action: EventAction) -> bool {
        match self {
            Self::CloudEvents => true,
            Self::Docker => crate::docker::action(action).is_some(),
        }
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Value(Secret),
    File(PathBuf),
}

/// Which events a sink gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkFilter {
    /// Only events of these repositories, and events that are about no repository; empty: of all.
    pub repositories: Vec<RepositoryPattern>,
    pub actions: Vec<EventAction>,
}

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkOptions {
    /// Its name in the store, in metrics and on the command line.
    pub name: SinkName,
    /// See [`jreg_auth::checked_url`].
    pub url: String,
    pub format: SinkFormat,
    pub filter: SinkFilter,
    /// The secrets that sign requests: none, one, or two while rotating.
    pub secrets: Vec<SecretSource>,
    /// Maximum time of a request.
    pub timeout: Duration,
    /// PEM bundle of the CAs that verify the sink's certificate, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl SinkFilter {
    /// Whether the sink gets such an event.
    pub fn wants(&self, action: EventAction, repository: Option<&RepositoryName>) -> bool {
        let is_of =
            |pattern: &RepositoryPattern| repository.is_none_or(|name| pattern.matches(name));
        self.actions.contains(&action)
            && (self.repositories.is_empty() || self.repositories.iter().any(is_of))
    }
}

/// What any of the sinks wants.
#[derive(Clone, Debug)]
pub struct SinkInterest(pub Vec<SinkFilter>);

impl EventInterest for SinkInterest {
    fn wants(&self, action: EventAction, repository: Option<&RepositoryName>) -> bool {
        self.0.iter().any(|filter| filter.wants(action, repository))
    }
}

/// Words that name no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is no action: it must be one of {}, or the first part of one with *, such as tag.*",
    names()
)]
pub struct InvalidActions {
    word: String,
}

fn names() -> String {
    EventAction::ALL.iter().map(|action| action.name()).collect::<Vec<_>>().join(", ")
}

/// The actions that words name: the name of one, `tag.*`, or `*` for all.
///
/// # Errors
///
/// [`InvalidActions`].
pub fn parse_actions<'a>(
    words: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<EventAction>, InvalidActions> {
    let mut actions = Vec::new();
    for word in words {
        let is_named = |action: &EventAction| match word.strip_suffix('*') {
            Some("") => true,
            Some(start) => start.ends_with('.') && action.name().starts_with(start),
            None => action.name() == word,
        };
        let named: Vec<_> = EventAction::ALL.iter().copied().filter(is_named).collect();
        if named.is_empty() {
            return Err(InvalidActions { word: word.chars().take(80).collect() });
        }
        actions.extend(named);
    }
    actions.sort_unstable();
    actions.dedup();
    Ok(actions)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_name_actions_and_groups_of_them() {
        let tags = parse_actions(["tag.*", "tag.move"]).unwrap();
        assert_eq!(tags.len(), 5);
        assert!(tags.iter().all(|action| action.name().starts_with("tag.")));
        assert_eq!(parse_actions(["*"]).unwrap(), EventAction::ALL);
        for word in ["", "tag", "tag*", "Tag.move", "push", "x.*"] {
            let error = parse_actions([word]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{word:?} is no action: it must be one of")));
        }
    }

    #[test]
    fn a_filter_of_repositories_is_about_events_that_have_one() {
        let filter = SinkFilter {
            repositories: vec!["team/**".parse().unwrap()],
            actions: SinkFormat::CloudEvents.default_actions(),
        };
        let (ours, other) = ("team/app".parse().unwrap(), "app".parse().unwrap());
        assert!(filter.wants(EventAction::TagMove, Some(&ours)));
        assert!(!filter.wants(EventAction::TagMove, Some(&other)));
        assert!(filter.wants(EventAction::GcReport, None));
        assert!(!filter.wants(EventAction::PullSummary, Some(&ours)));
        let docker = SinkFormat::Docker.default_actions();
        assert!(!docker.contains(&EventAction::GcReport));
        assert_eq!(docker.len(), 7);
    }
}
