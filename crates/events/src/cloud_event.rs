//! CloudEvents 1.0 in the structured mode, as JSON.

use jreg_registry::{Event, EventAction, SequencedEvent};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::docker::timestamp;

/// The Content-Type of a request.
pub(crate) const MEDIA_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The `type` of an event.
pub fn event_type(action: EventAction) -> &'static str {
    match action {
        EventAction::ManifestPush => "io.jreg.manifest.pushed",
        EventAction::ManifestDelete => "io.jreg.manifest.deleted",
        EventAction::TagCreate => "io.jreg.tag.created",
        EventAction::TagMove => "io.jreg.tag.moved",
        EventAction::TagDelete => "io.jreg.tag.deleted",
        EventAction::TagRestore => "io.jreg.tag.restored",
        EventAction::TagExpire => "io.jreg.tag.expired",
        EventAction::QuotaWarning => "io.jreg.quota.warning",
        EventAction::GcReport => "io.jreg.gc.completed",
        EventAction::FsckReport => "io.jreg.fsck.completed",
        EventAction::Reload => "io.jreg.file.reloaded",
        EventAction::TokenCreate => "io.jreg.token.created",
        EventAction::TokenRevoke => "io.jreg.token.revoked",
        EventAction::PullSummary => "io.jreg.content.pulled",
    }
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: String,
    /// The extension "sequence": texts of one length, so that their order is that of the numbers.
    sequence: String,
    datacontenttype: &'static str,
    data: Map<String, Value>,
}

/// The body of a request.
pub(crate) fn encode(sequenced: SequencedEvent<'_>, source: &str) -> Vec<u8> {
    let SequencedEvent { sequence, event } = sequenced;
    let event = CloudEvent {
        specversion: "1.0",
        id: event.id(),
        source,
        r#type: event_type(event.action),
        subject: subject(event),
        time: timestamp(event),
        sequence: format!("{sequence:020}"),
        datacontenttype: "application/json",
        data: data(event),
    };
    serde_json::to_vec(&event).expect("an event has only string keys")
}

/// `NAME:TAG`, `NAME@DIGEST` or `NAME`.
fn subject(event: &Event) -> Option<String> {
    let name = event.repository.as_ref()?;
    Some(match (&event.tag, &event.digest) {
        (Some(tag), _) => format!("{name}:{tag}"),
        (None, Some(digest)) => format!("{name}@{digest}"),
        (None, None) => name.to_string(),
    })
}

fn data(event: &Event) -> Map<String, Value> {
    let text = |value: &dyn ToString| Value::from(value.to_string());
    let mut data = event.detail.clone();
    let fields = [
        ("change", event.repository.as_ref().map(|_| text(&event.change))),
        ("repository", event.repository.as_ref().map(|name| text(name))),
        ("tag", event.tag.as_ref().map(|tag| text(tag))),
        ("digest", event.digest.as_ref().map(|digest| text(digest))),
        ("previousDigest", event.previous_digest.as_ref().map(|digest| text(digest))),
        ("mediaType", event.media_type.as_ref().map(|media_type| text(media_type))),
        ("size", event.size.map(Value::from)),
        ("actor", event.actor.as_ref().map(|actor| text(actor))),
        ("request", event.request.as_ref().map(|request| text(request))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            data.insert(name.to_owned(), value);
        }
    }
    data
}
