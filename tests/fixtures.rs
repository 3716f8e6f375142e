//! Few blobs and manifests that all clients of a test use: so few that they conflict.

use bytes::Bytes;
use jreg_oci::{Algorithm, Digest, MediaType};
use jreg_testkit::{Blob, Manifest, Rng, index_of, media};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct FixtureBlob {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

#[derive(Clone, Debug)]
pub(crate) struct FixtureManifest {
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    /// The referenced blobs.
    pub(crate) needs: Vec<usize>,
    /// The listed manifests.
    pub(crate) children: Vec<usize>,
    /// Its subject and its artifact type, if it is a referrer.
    pub(crate) referrer: Option<(usize, &'static str)>,
}

/// All fixtures; operations refer to them by number.
#[derive(Clone, Debug)]
pub(crate) struct Fixtures {
    pub(crate) blobs: Vec<FixtureBlob>,
    pub(crate) manifests: Vec<FixtureManifest>,
}

impl FixtureBlob {
    pub(crate) fn new(bytes: impl Into<Bytes>, algorithm: Algorithm) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(algorithm, &bytes), bytes }
    }
}

impl FixtureManifest {
    pub(crate) fn subject(&self) -> Option<usize> {
        self.referrer.map(|(subject, _)| subject)
    }
}

impl Fixtures {
    /// Fixtures without a manifest.
    pub(crate) fn new(blobs: Vec<FixtureBlob>) -> Self {
        Self { blobs, manifests: Vec::new() }
    }

    /// Fixtures with blobs of these sizes, and without a manifest.
    pub(crate) fn with_layers(sizes: impl IntoIterator<Item = usize>) -> Self {
        let mut rng = Rng::new(31);
        let blob = |len| FixtureBlob::new(Blob::layer(&mut rng, len).bytes, Algorithm::Sha256);
        Self::new(sizes.into_iter().map(blob).collect())
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
        let refers = |number: &usize| self.manifests[*number].subject() == Some(subject);
        (0..self.manifests.len()).filter(refers).collect()
    }

    pub(crate) fn add_image(
        &mut self,
        config: usize,
        layers: &[usize],
        referrer: Option<(usize, &'static str)>,
    ) {
        let mut image = json!({"schemaVersion": 2, "mediaType": media::MANIFEST});
        image["config"] = self.describe_blob(config);
        image["layers"] = layers.iter().map(|layer| self.describe_blob(*layer)).collect();
        self.add_referrer(&mut image, referrer);
        let needs = [&[config], layers].concat();
        self.add(Manifest::tabbed(media::MANIFEST, &image), needs, Vec::new(), referrer);
    }

    pub(crate) fn add_index(
        &mut self,
        children: &[usize],
        referrer: Option<(usize, &'static str)>,
    ) {
        let described: Vec<_> = children.iter().map(|child| self.describe(*child)).collect();
        let mut index: Value = serde_json::from_slice(&index_of(&described).bytes).unwrap();
        self.add_referrer(&mut index, referrer);
        let index = Manifest::tabbed(media::INDEX, &index);
        self.add(index, Vec::new(), children.to_vec(), referrer);
    }

    fn add_referrer(&self, manifest: &mut Value, referrer: Option<(usize, &'static str)>) {
        if let Some((subject, artifact_type)) = referrer {
            manifest["subject"] = self.describe(subject);
            manifest["artifactType"] = artifact_type.into();
        }
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

    fn add(
        &mut self,
        manifest: Manifest,
        needs: Vec<usize>,
        children: Vec<usize>,
        referrer: Option<(usize, &'static str)>,
    ) {
        let Manifest { media_type, bytes } = manifest;
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let media_type = media_type.parse().unwrap();
        let manifest = FixtureManifest { media_type, bytes, digest, needs, children, referrer };
        self.manifests.push(manifest);
    }
}
