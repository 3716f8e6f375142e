//! The README of a Helm chart, which is in its archive.

use bytes::Bytes;
use jreg_oci::RepositoryName;
use jreg_ui::ManifestFacts;
use jreg_ui::chart_archive::{CHART_BYTES_MAX, read_readme};
use jreg_ui::document::DescriptorDocument;

use super::images::{BlobRead, read_blob};
use super::request::UiRequest;
use crate::error::ApiError;

/// Documents of so many bytes or fewer are read where they are needed.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The README of a chart. `None`: it has none, or is too large to be unpacked for a page.
pub(crate) async fn readme(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    chart: &ManifestFacts,
) -> Result<Option<String>, ApiError> {
    let mut layers = chart.document.layers.items.iter();
    let Some(archive) = layers.find(is_archive) else { return Ok(None) };
    let _turn = request.context.ui.document_turn().await?;
    match read_blob(request, name, Some(archive), CHART_BYTES_MAX).await? {
        BlobRead::Bytes(bytes) => off_runtime(bytes, true, read_readme).await,
        BlobRead::TooLarge(_) | BlobRead::Absent => Ok(None),
    }
}

fn is_archive(layer: &&DescriptorDocument) -> bool {
    let media_type = layer.media_type.as_str();
    media_type.starts_with("application/vnd.cncf.helm.chart.content")
        || media_type == "application/tar+gzip"
}

/// Does work on a document, beside the runtime's threads if it is large.
pub(crate) async fn off_runtime<T: Send + 'static>(
    bytes: Bytes,
    is_packed: bool,
    work: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, ApiError> {
    if bytes.len() <= INLINE_BYTES_MAX && !is_packed {
        return Ok(work(&bytes));
    }
    let done = tokio::task::spawn_blocking(move || work(&bytes)).await;
    done.map_err(|error| match error.is_panic() {
        true => ApiError::panicked(),
        false => jreg_registry::Error::Stopped.into(),
    })
}
