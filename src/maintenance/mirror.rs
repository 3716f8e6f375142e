//! `jreg mirror sync`: fetches images of mirrored registries before clients ask for them.

use jreg_mirror::{Mirrors, SyncItem, SyncOutcome, SyncReport, SyncRequest};

use super::print::{number, size};
use super::{EventSender, MaintenanceEvent};

impl jreg_mirror::SyncObserver for EventSender {
    fn note(&self, item: SyncItem) {
        self.send(MaintenanceEvent::Synced(item));
    }
}

pub(super) async fn run(
    mirrors: Option<&Mirrors>,
    request: &SyncRequest,
    sender: &EventSender,
) -> Result<SyncReport, String> {
    match mirrors {
        Some(mirrors) => Ok(mirrors.sync(request, sender).await),
        None => Err("there is no mirror: add a [[mirror]] to the settings".to_owned()),
    }
}

/// One tag as text.
pub(super) fn line(item: &SyncItem) -> String {
    let image = match &item.tag {
        Some(tag) => format!("{}:{tag}", item.name),
        None => item.name.to_string(),
    };
    match &item.outcome {
        SyncOutcome::Fetched { manifests, blobs, bytes } => {
            let (manifests, blobs) = (number(*manifests), number(*blobs));
            format!("fetched   {image}  {manifests} manifests  {blobs} blobs  {}\n", size(*bytes))
        }
        SyncOutcome::Present => format!("present   {image}\n"),
        SyncOutcome::Selected { digest } => format!("selected  {image}  {digest}\n"),
        SyncOutcome::Failed { error } => format!("FAILED    {image}  {error}\n"),
    }
}

/// The sum as text.
pub(super) fn plain(report: &SyncReport) -> String {
    let SyncReport { tags, manifests_fetched, blobs_fetched, bytes_fetched, failed, is_limited } =
        report;
    let [tags, manifests, blobs, failed] =
        [tags, manifests_fetched, blobs_fetched, failed].map(|count| number(*count));
    let bytes = size(*bytes_fetched);
    let end = match is_limited {
        true => "; stopped at --rate-limit-rest: run again when the registry allows more requests",
        false => "",
    };
    format!(
        "{tags} tags: {manifests} manifests and {blobs} blobs ({bytes}) fetched, {failed} failed{end}\n"
    )
}
