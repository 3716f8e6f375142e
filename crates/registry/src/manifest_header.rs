//! What the records of a manifest say of it, as its bytes have it: its header line, and its entry among the
//! referrers of its subject.

use bytes::Bytes;
use jreg_oci::{Descriptor, Digest, Manifest, MediaType};
use serde::Deserialize;

use crate::record::{ManifestHeader, ManifestRecord, ReferrerEntry};

/// The header line of a manifest's record.
pub(crate) fn manifest_header(manifest: &Manifest, size: u64) -> ManifestHeader {
    ManifestHeader {
        media_type: manifest.media_type.clone(),
        size,
        subject: manifest.subject.as_ref().map(|subject| subject.digest.clone()),
        artifact_type: manifest.artifact_type.clone().filter(|kind| fits_header(kind)),
        change: None,
        restored: None,
        origin: None,
    }
}

/// What a record has whose header line is damaged.
pub(crate) struct HeadlessManifest {
    bytes: Bytes,
    /// The media type that the bytes declare.
    declared: Option<MediaType>,
}

impl HeadlessManifest {
    /// `None`: its bytes are not those of its digest, either.
    pub(crate) fn read(digest: &Digest, record: &Bytes) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct TypedManifest {
            media_type: MediaType,
        }
        let end = record.iter().position(|byte| *byte == b'\n')?;
        let bytes = record.slice(end + 1..);
        let is_whole = Digest::of(digest.algorithm(), &bytes) == *digest;
        let typed = serde_json::from_slice::<TypedManifest>(&bytes).ok();
        is_whole.then(|| Self { bytes, declared: typed.map(|typed| typed.media_type) })
    }

    /// The record as it was, if its bytes declare their media type.
    pub(crate) fn rebuild(self) -> Option<ManifestRecord> {
        let manifest = Manifest::parse_stored(self.declared.as_ref()?, &self.bytes).ok()?;
        let header = manifest_header(&manifest, self.bytes.len() as u64);
        Some(ManifestRecord { header, bytes: self.bytes })
    }

    /// What it refers to and its subject, which do not depend on its media type.
    pub(crate) fn parse(&self) -> Option<Manifest> {
        let any = MediaType::OCI_EMPTY;
        let media_type = self.declared.as_ref().unwrap_or(&any);
        Manifest::parse_stored(media_type, &self.bytes).ok()
    }
}

/// What the list of its subject's referrers says of a manifest.
pub(crate) fn referrer_entry(manifest: &Manifest, digest: &Digest, size: u64) -> ReferrerEntry {
    let descriptor = Descriptor {
        artifact_type: manifest.artifact_type.clone(),
        annotations: manifest.annotations.clone(),
        ..Descriptor::new(&manifest.media_type, digest.clone(), size)
    };
    ReferrerEntry { descriptor }
}

/// Whether an artifact type goes into a manifest's header line. A media type has at most 255
/// characters (RFC 6838 section 4.2); what is longer would double the record.
fn fits_header(artifact_type: &str) -> bool {
    artifact_type.len() <= 255
}
