//! The few repositories, blobs, manifests and tags that all clients use: so few that they conflict.

use bytes::Bytes;
use jreg_testkit::{Blob, Manifest, Rng, index_of, media, sha256};
use serde_json::{Value, json};

/// Repository names.
pub(crate) const REPOSITORIES: [&str; 2] = ["three/a", "three/b"];
/// Tags, in byte order.
pub(crate) const TAGS: [&str; 2] = ["edge", "v1"];

/// Small blobs that are stored in one request.
const SMALL_BYTES: [usize; 4] = [2, 300, 20_000, 300_000];
/// Blobs of two and of three parts.
const LARGE_BYTES: [usize; 2] = [5 * 1024 * 1024 + 100_000, 11 * 1024 * 1024];

/// A blob.
#[derive(Clone, Debug)]
pub(crate) struct FixtureBlob {
    pub(crate) bytes: Bytes,
    pub(crate) digest: String,
}

/// A manifest.
#[derive(Clone, Debug)]
pub(crate) struct FixtureManifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
    pub(crate) digest: String,
    /// The referenced blobs.
    pub(crate) needs: Vec<usize>,
    /// The subject.
    pub(crate) subject: Option<usize>,
}

/// All fixtures; operations refer to them by number.
#[derive(Clone, Debug)]
pub(crate) struct Fixtures {
    pub(crate) blobs: Vec<FixtureBlob>,
    pub(crate) manifests: Vec<FixtureManifest>,
}

impl Fixtures {
    pub(crate) fn new() -> Self {
        let mut rng = Rng::new(31);
        let blob = |len: &usize| {
            let Blob { bytes, .. } = Blob::layer(&mut rng, *len);
            FixtureBlob { digest: sha256(&bytes), bytes }
        };
        let blobs = SMALL_BYTES.iter().chain(&LARGE_BYTES).map(blob).collect();
        let mut fixtures = Self { blobs, manifests: Vec::new() };
        fixtures.add_image(0, &[1], None);
        fixtures.add_image(0, &[1, 2], None);
        fixtures.add_image(1, &[3, 4], None);
        fixtures.add_image(0, &[], Some(0));
        let children = [0, 1].map(|number: usize| {
            let FixtureManifest { media_type, bytes, digest, .. } = &fixtures.manifests[number];
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        });
        fixtures.add(index_of(&children), Vec::new(), None);
        fixtures
    }

    /// The blobs that take several parts.
    pub(crate) fn is_large(&self, blob: usize) -> bool {
        blob >= SMALL_BYTES.len()
    }

    /// The blob with this digest.
    pub(crate) fn blob_of(&self, digest: &str) -> Option<usize> {
        self.blobs.iter().position(|blob| blob.digest == digest)
    }

    /// The manifest with these bytes.
    pub(crate) fn manifest_of(&self, bytes: &[u8]) -> Option<usize> {
        self.manifests.iter().position(|manifest| manifest.bytes == bytes)
    }

    /// The referrers of a manifest.
    pub(crate) fn referrers(&self) -> impl Iterator<Item = (usize, usize)> {
        let with =
            |(number, manifest): (usize, &FixtureManifest)| Some((number, manifest.subject?));
        self.manifests.iter().enumerate().filter_map(with)
    }

    fn descriptor(&self, blob: usize) -> Value {
        let FixtureBlob { bytes, digest } = &self.blobs[blob];
        json!({"mediaType": media::LAYER, "digest": digest, "size": bytes.len()})
    }

    fn add_image(&mut self, config: usize, layers: &[usize], subject: Option<usize>) {
        let mut image = json!({"schemaVersion": 2, "mediaType": media::MANIFEST});
        image["config"] = self.descriptor(config);
        image["layers"] = layers.iter().map(|layer| self.descriptor(*layer)).collect();
        if let Some(subject) = subject {
            let FixtureManifest { media_type, bytes, digest, .. } = &self.manifests[subject];
            image["subject"] =
                json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
            image["artifactType"] = "application/x".into();
        }
        let needs = [&[config], layers].concat();
        self.add(Manifest::tabbed(media::MANIFEST, &image), needs, subject);
    }

    fn add(&mut self, manifest: Manifest, needs: Vec<usize>, subject: Option<usize>) {
        let digest = manifest.digest();
        let Manifest { media_type, bytes } = manifest;
        self.manifests.push(FixtureManifest { media_type, bytes, digest, needs, subject });
    }
}
