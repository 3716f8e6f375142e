//! Events against the history of tags: as many events as changes, no more and no less, each tag's in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jreg_testkit::Client;
use serde_json::Value;

use crate::events::receiver::Receiver;

const PATIENCE: Duration = Duration::from_secs(60);

/// The change of an entry, and what the tag pointed to from then on.
pub(crate) type TagChange = (String, Option<String>);

/// All changes of a tag, the latest first; none if it never was.
pub(crate) async fn history(client: &Client, repository: &str, tag: &str) -> Vec<TagChange> {
    let mut changes = Vec::new();
    let mut target = format!("/v2/{repository}/_jreg/tags/{tag}/history?n=100");
    loop {
        let page = client.get(&target).await;
        if page.status == 404 {
            return changes;
        }
        assert_eq!(page.status, 200, "{page}");
        for item in page.json()["history"].as_array().unwrap() {
            let id = item["change"].as_str().unwrap().to_owned();
            changes.push((id, item["digest"].as_str().map(str::to_owned)));
        }
        let Some(next) = page.header("Link") else { return changes };
        target = next.trim_start_matches('<').split('>').next().unwrap().to_owned();
    }
}

/// The changes of each tag in the order of their first deliveries, by the subject of the events.
fn received(receiver: &Receiver) -> BTreeMap<String, Vec<String>> {
    let (mut ids, mut tags) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for body in receiver.bodies() {
        let is_of_tag = body["type"].as_str().unwrap().starts_with("io.jreg.tag.");
        if is_of_tag && ids.insert(text(&body["id"])) {
            tags.entry(text(&body["subject"])).or_default().push(text(&body["data"]["change"]));
        }
    }
    tags
}

/// Waits until the events are those of the changes of these tags, which are given by their subjects, the oldest first.
pub(crate) async fn assert_events(receiver: &Receiver, changes: BTreeMap<String, Vec<String>>) {
    let until = Instant::now() + PATIENCE;
    loop {
        let events = received(receiver);
        for (subject, got) in &events {
            let expected = changes.get(subject).map_or(&[][..], Vec::as_slice);
            assert!(expected.starts_with(got), "{subject}: {got:?} of the changes {expected:?}");
        }
        if events == changes {
            return;
        }
        let left: usize = changes.values().chain(events.values()).map(Vec::len).sum();
        assert!(Instant::now() < until, "{left} changes and events: {events:?} of {changes:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
