//! The few repositories, tags, blobs and manifests that all clients use: so few that they conflict.

use bytes::Bytes;
use jreg_oci::{Algorithm, Digest, MediaType, RepositoryName, Tag};
use jreg_testkit::{Blob, Manifest, Rng, index_of, media};
use serde_json::{Value, json};

/// Repository names that need no encoding in a key.
pub(crate) const REPOSITORIES: [&str; 3] = ["one", "three", "two"];
/// Tags, in byte order.
pub(crate) const TAGS: [&str; 3] = ["edge", "stable", "v1"];

/// A blob.
#[derive(Clone, Debug)]
pub(crate) struct FixtureBlob {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

/// A manifest.
#[derive(Clone, Debug)]
pub(crate) struct FixtureManifest {
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    /// The referenced blobs.
    pub(crate) needs: Vec<usize>,
    /// The listed manifests.
    pub(crate) children: Vec<usize>,
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
    /// Fixtures with blobs of these sizes, of which there must be eight.
    pub(crate) fn new(blob_bytes: [usize; 8]) -> Self {
        let mut rng = Rng::new(31);
        let blob = |len| {
            let Blob { bytes, .. } = Blob::layer(&mut rng, len);
            FixtureBlob { digest: digest(&bytes), bytes }
        };
        let mut fixtures =
            Self { blobs: blob_bytes.into_iter().map(blob).collect(), manifests: Vec::new() };
        for (config, layers) in [(0, &[1][..]), (0, &[1, 2]), (3, &[4]), (3, &[4, 5]), (6, &[7, 1])]
        {
            fixtures.add_image(config, layers, None);
        }
        fixtures.add_index(&[0, 2]);
        fixtures.add_index(&[1, 3]);
        fixtures.add_image(0, &[], Some(0));
        fixtures.add_image(6, &[5], Some(5));
        fixtures
    }

    pub(crate) fn name(repository: usize) -> RepositoryName {
        REPOSITORIES[repository].parse().unwrap()
    }

    pub(crate) fn tag(tag: usize) -> Tag {
        TAGS[tag].parse().unwrap()
    }

    /// The blob with this digest.
    pub(crate) fn blob_of(&self, digest: &Digest) -> Option<usize> {
        self.blobs.iter().position(|blob| blob.digest == *digest)
    }

    /// The manifest with these bytes.
    pub(crate) fn manifest_of(&self, bytes: &[u8]) -> Option<usize> {
        self.manifests.iter().position(|manifest| manifest.bytes == bytes)
    }

    /// The referrers of a manifest.
    pub(crate) fn referrers(&self, subject: usize) -> Vec<usize> {
        let refers = |number: &usize| self.manifests[*number].subject == Some(subject);
        (0..self.manifests.len()).filter(refers).collect()
    }

    fn describe_blob(&self, blob: usize) -> Value {
        let FixtureBlob { bytes, digest } = &self.blobs[blob];
        json!({"mediaType": media::LAYER, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn describe(&self, manifest: usize) -> Value {
        let FixtureManifest { media_type, bytes, digest, .. } = &self.manifests[manifest];
        let (media_type, digest) = (media_type.to_string(), digest.to_string());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn add_image(&mut self, config: usize, layers: &[usize], subject: Option<usize>) {
        let mut image = json!({"schemaVersion": 2, "mediaType": media::MANIFEST});
        image["config"] = self.describe_blob(config);
        image["layers"] = layers.iter().map(|layer| self.describe_blob(*layer)).collect();
        if let Some(subject) = subject {
            image["subject"] = self.describe(subject);
            image["artifactType"] = "application/x".into();
        }
        let needs = [&[config], layers].concat();
        self.add(Manifest::compact(media::MANIFEST, &image), needs, Vec::new(), subject);
    }

    fn add_index(&mut self, children: &[usize]) {
        let described: Vec<_> = children.iter().map(|child| self.describe(*child)).collect();
        self.add(index_of(&described), Vec::new(), children.to_vec(), None);
    }

    fn add(
        &mut self,
        manifest: Manifest,
        needs: Vec<usize>,
        children: Vec<usize>,
        subject: Option<usize>,
    ) {
        let Manifest { media_type, bytes } = manifest;
        let (media_type, digest) = (media_type.parse().unwrap(), digest(&bytes));
        self.manifests.push(FixtureManifest {
            media_type,
            bytes,
            digest,
            needs,
            children,
            subject,
        });
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}
