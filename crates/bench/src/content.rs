//! Content to push: no two pieces of a run are equal, nor of two runs, and none of it compresses.
//!
//! The client must cost as little as possible, so content is not made anew for each push: its bytes
//! are those of one buffer of the run up to the last [`TRAILER_BYTES`], which no other content has.
//! The hash of what comes before is kept, so that a digest costs the hashing of the trailer. What a
//! registry stores and hashes, and what it deduplicates by, the digest, is different each time.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::rng::BenchRng;

/// What makes content unique, at its end.
pub(crate) const TRAILER_BYTES: usize = 64;

/// Media types.
pub(crate) mod media {
    pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// What containerd accepts.
    pub(crate) const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
}

/// The digest of bytes as it is written.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    written(Sha256::new_with_prefix(bytes))
}

/// A digest from a hash that has seen everything.
pub(crate) fn written(hash: Sha256) -> String {
    let mut digest = String::with_capacity("sha256:".len() + 64);
    digest.push_str("sha256:");
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

/// What all content of a run is made from.
#[derive(Debug)]
pub(crate) struct ContentSource {
    seed: u64,
    base: Vec<u8>,
    made: AtomicU64,
}

impl ContentSource {
    /// For content up to this size.
    pub(crate) fn new(seed: u64, size_max: usize) -> Self {
        Self { seed, base: BenchRng::new(seed, 0).bytes(size_max), made: AtomicU64::new(0) }
    }

    /// Another number each time, for what must be unique in the run.
    pub(crate) fn number(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What tells this run from any other.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// A digest that nothing has.
    pub(crate) fn missing_digest(&self) -> String {
        digest_of(&BenchRng::new(self.seed, self.number()).bytes(TRAILER_BYTES))
    }
}

/// Content of one size, ready to be made unique.
#[derive(Clone, Debug)]
pub(crate) struct ContentTemplate {
    shared: usize,
    hash: Sha256,
}

impl ContentTemplate {
    /// Content that is this long, but no shorter than its trailer and no longer than the source.
    pub(crate) fn new(source: &ContentSource, size: usize) -> Self {
        let shared = size.saturating_sub(TRAILER_BYTES).min(source.base.len());
        let hash = Sha256::new_with_prefix(source.base.get(..shared).unwrap_or_default());
        Self { shared, hash }
    }

    /// How long content is, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.shared + TRAILER_BYTES
    }

    /// Content that there never was before.
    pub(crate) fn make<'a>(&self, source: &'a ContentSource) -> ContentSpec<'a> {
        let trailer = BenchRng::new(source.seed, source.number()).bytes(TRAILER_BYTES);
        let digest = written(self.hash.clone().chain_update(&trailer));
        ContentSpec { shared: source.base.get(..self.shared).unwrap_or_default(), trailer, digest }
    }
}

/// A blob to push.
#[derive(Debug)]
pub(crate) struct ContentSpec<'a> {
    pub(crate) shared: &'a [u8],
    pub(crate) trailer: Vec<u8>,
    pub(crate) digest: String,
}

/// What a manifest says of something.
#[derive(Clone, Debug)]
pub(crate) struct ContentDescriptor {
    pub(crate) digest: String,
    pub(crate) size: usize,
}

impl ContentDescriptor {
    fn json(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

impl ContentSpec<'_> {
    pub(crate) fn descriptor(&self) -> ContentDescriptor {
        ContentDescriptor {
            digest: self.digest.clone(),
            size: self.shared.len() + self.trailer.len(),
        }
    }
}

/// An image configuration that there never was before.
pub(crate) fn config(source: &ContentSource, layers: &[ContentDescriptor]) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"bench": mark(source)}},
        "rootfs": {"type": "layers", "diff_ids": layers},
    });
    config.to_string().into_bytes()
}

/// A manifest that there never was before.
pub(crate) fn manifest(
    source: &ContentSource,
    config: &ContentDescriptor,
    layers: &[ContentDescriptor],
    subject: Option<&ContentDescriptor>,
) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config.json(media::CONFIG),
        "layers": layers.iter().map(|layer| layer.json(media::LAYER)).collect::<Vec<_>>(),
        "annotations": {"org.example.bench": mark(source)},
    });
    if let (Some(subject), Some(fields)) = (subject, manifest.as_object_mut()) {
        fields.insert("subject".to_owned(), subject.json(media::MANIFEST));
        fields.insert("artifactType".to_owned(), "application/vnd.example.bench".into());
    }
    manifest.to_string().into_bytes()
}

fn mark(source: &ContentSource) -> String {
    format!("{:016x}-{}", source.seed, source.number())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_content_has_the_digest_of_its_bytes_and_of_no_other() {
        let source = ContentSource::new(7, 5000);
        let mut digests = HashSet::new();
        for size in [TRAILER_BYTES, 100, 5000] {
            let template = ContentTemplate::new(&source, size);
            for _ in 0..10 {
                let content = template.make(&source);
                let bytes = [content.shared, &content.trailer].concat();
                assert_eq!((bytes.len(), template.size()), (size, size));
                assert_eq!(content.digest, digest_of(&bytes));
                assert!(digests.insert(content.digest));
            }
        }
    }

    #[test]
    fn another_run_has_other_content() {
        let made = |seed| {
            let source = ContentSource::new(seed, 100);
            (
                ContentTemplate::new(&source, 100).make(&source).digest,
                config(&source, &[]),
                source.missing_digest(),
            )
        };
        assert_eq!(made(1), made(1));
        let (one, other) = (made(1), made(2));
        assert!(one.0 != other.0 && one.1 != other.1 && one.2 != other.2);
    }

    #[test]
    fn a_manifest_names_what_it_is_made_of() {
        let source = ContentSource::new(7, 0);
        let part = |digest: &str| ContentDescriptor { digest: digest.to_owned(), size: 3 };
        let bytes = manifest(&source, &part("c"), &[part("l")], Some(&part("s")));
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let digests = ["/config/digest", "/layers/0/digest", "/subject/digest"]
            .map(|place| json.pointer(place).and_then(Value::as_str));
        assert_eq!(digests, [Some("c"), Some("l"), Some("s")]);
        assert_ne!(bytes, manifest(&source, &part("c"), &[part("l")], Some(&part("s"))));
    }
}
