//! The envelope of the notifications of distribution: one event in each.

use chrono::{DateTime, SecondsFormat, Utc};
use jreg_registry::{Event, EventAction, SequencedEvent};
use serde::Serialize;

/// The Content-Type of a request.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v2+json";

/// The word for an action and the method of its request; `None`: the format has none.
pub(crate) fn action(action: EventAction) -> Option<(&'static str, &'static str)> {
    match action {
        EventAction::ManifestPush
        | EventAction::TagCreate
        | EventAction::TagMove
        | EventAction::TagRestore => Some(("push", "PUT")),
        EventAction::ManifestDelete | EventAction::TagDelete | EventAction::TagExpire => {
            Some(("delete", "DELETE"))
        }
        EventAction::PullSummary => Some(("pull", "GET")),
        EventAction::QuotaWarning
        | EventAction::GcReport
        | EventAction::FsckReport
        | EventAction::Reload
        | EventAction::TokenCreate
        | EventAction::TokenRevoke => None,
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    events: [DockerEvent<'a>; 1],
}

#[derive(Serialize)]
struct DockerEvent<'a> {
    id: String,
    timestamp: String,
    action: &'static str,
    target: Target<'a>,
    request: Request<'a>,
    actor: Actor<'a>,
    source: Source<'a>,
    /// A field that distribution does not have.
    sequence: u64,
    /// Another one: how many pulls an event sums up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pulls: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// A deleted tag has none: a receiver would take the event for the delete of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// The size once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    repository: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
}

#[derive(Serialize)]
struct Request<'a> {
    id: &'a str,
    method: &'static str,
    useragent: &'static str,
}

#[derive(Serialize)]
struct Actor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct Source<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<&'a str>,
}

/// The body of a request; `None`: the format has no word for the action.
pub(crate) fn encode(sequenced: SequencedEvent<'_>, public_url: Option<&str>) -> Option<Vec<u8>> {
    let SequencedEvent { sequence, event } = sequenced;
    let (action, method) = action(event.action)?;
    let repository = event.repository.as_ref()?;
    let is_tag_delete = action == "delete" && event.tag.is_some();
    let digest = event.digest.as_ref().filter(|_| !is_tag_delete);
    let url = public_url.zip(digest).filter(|_| action != "delete");
    let target = Target {
        media_type: event.media_type.as_ref().map(ToString::to_string),
        size: event.size,
        digest: digest.map(ToString::to_string),
        length: event.size,
        repository: repository.as_str(),
        url: url.map(|(url, digest)| format!("{url}/v2/{repository}/manifests/{digest}")),
        tag: event.tag.as_ref().map(ToString::to_string),
    };
    let host = public_url.and_then(|url| url.split_once("://")).map(|(_, host)| host);
    let event = DockerEvent {
        id: event.id(),
        timestamp: timestamp(event),
        action,
        target,
        request: Request {
            id: event.request.as_deref().unwrap_or_default(),
            method,
            useragent: "",
        },
        actor: Actor { name: event.actor.as_deref() },
        source: Source { addr: host },
        sequence,
        pulls: event.detail.get("pulls").and_then(serde_json::Value::as_u64),
    };
    let envelope = Envelope { events: [event] };
    Some(serde_json::to_vec(&envelope).expect("an event has only string keys"))
}

/// The time of an event (RFC 3339).
pub(crate) fn timestamp(event: &Event) -> String {
    DateTime::<Utc>::from(event.time()).to_rfc3339_opts(SecondsFormat::Millis, true)
}
