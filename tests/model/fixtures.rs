//! The few repositories, blobs, manifests and tags that operations use: so few that they conflict.

use bytes::Bytes;
use jreg_testkit::{Blob, Manifest, Rng, media, sha256, sha512};
use serde_json::{Value, json};

/// Repository names, in byte order.
pub(crate) const REPOSITORIES: [&str; 2] = ["a", "a/b"];
/// Tags, in byte order.
pub(crate) const TAGS: [&str; 3] = ["1", "B", "a"];
/// Artifact types.
pub(crate) const TYPES: [&str; 2] = ["application/x", "application/y"];

/// A blob that may be pushed.
#[derive(Clone, Debug)]
pub(crate) struct FixtureBlob {
    pub(crate) bytes: Bytes,
    pub(crate) digest: String,
}

/// A manifest that may be pushed.
#[derive(Clone, Debug)]
pub(crate) struct FixtureManifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
    pub(crate) digest: String,
    /// The referenced blobs.
    pub(crate) needs: Vec<usize>,
    /// The subject.
    pub(crate) subject: Option<usize>,
    /// Its artifact type in a referrers list.
    pub(crate) artifact_type: Option<&'static str>,
}

/// All fixtures; operations refer to them by number.
#[derive(Clone, Debug)]
pub(crate) struct Fixtures {
    pub(crate) blobs: Vec<FixtureBlob>,
    pub(crate) manifests: Vec<FixtureManifest>,
}

pub(crate) const BLOBS: usize = 6;
pub(crate) const MANIFESTS: usize = 6;

impl Fixtures {
    pub(crate) fn new() -> Self {
        let mut fixtures = Self { blobs: blobs(), manifests: Vec::new() };
        fixtures.add_image(&[2], None);
        fixtures.add_image(&[3, 3, 4], None);
        fixtures.add_image(&[5], Some((0, TYPES[0])));
        fixtures.add_index(&[0, 1], None);
        fixtures.add_index(&[], Some((0, TYPES[1])));
        fixtures.add_image(&[], Some((3, TYPES[1])));
        assert_eq!((fixtures.blobs.len(), fixtures.manifests.len()), (BLOBS, MANIFESTS));
        fixtures
    }

    fn descriptor(&self, blob: usize) -> Value {
        let blob = &self.blobs[blob];
        json!({"mediaType": media::LAYER, "digest": blob.digest, "size": blob.bytes.len()})
    }

    fn add_image(&mut self, layers: &[usize], referrer: Option<(usize, &'static str)>) {
        const CONFIG: usize = 1;
        let mut image = json!({"schemaVersion": 2, "mediaType": media::MANIFEST});
        image["config"] = self.descriptor(CONFIG);
        image["layers"] = layers.iter().map(|layer| self.descriptor(*layer)).collect();
        let needs = [&[CONFIG], layers].concat();
        self.add(media::MANIFEST, image, needs, referrer);
    }

    fn add_index(&mut self, children: &[usize], referrer: Option<(usize, &'static str)>) {
        let child = |child: &usize| {
            let child = &self.manifests[*child];
            json!({"mediaType": child.media_type, "digest": child.digest, "size": child.bytes.len()})
        };
        let children: Vec<_> = children.iter().map(child).collect();
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": children});
        self.add(media::INDEX, index, Vec::new(), referrer);
    }

    fn add(
        &mut self,
        kind: &str,
        mut json: Value,
        needs: Vec<usize>,
        referrer: Option<(usize, &'static str)>,
    ) {
        if let Some((subject, artifact_type)) = referrer {
            let of = &self.manifests[subject];
            json["subject"] =
                json!({"mediaType": of.media_type, "digest": of.digest, "size": of.bytes.len()});
            json["artifactType"] = artifact_type.into();
        }
        let Manifest { media_type, bytes } = Manifest::tabbed(kind, &json);
        self.manifests.push(FixtureManifest {
            media_type,
            digest: sha256(&bytes),
            bytes,
            needs,
            subject: referrer.map(|(subject, _)| subject),
            artifact_type: referrer.map(|(_, artifact_type)| artifact_type),
        });
    }
}

fn blobs() -> Vec<FixtureBlob> {
    let mut rng = Rng::new(77);
    let by_sha256 = |bytes: Bytes| FixtureBlob { digest: sha256(&bytes), bytes };
    let small = Blob::layer(&mut rng, 10).bytes;
    vec![
        by_sha256(Bytes::new()),
        by_sha256(Bytes::from_static(b"{}")),
        by_sha256(small.clone()),
        by_sha256(rng.bytes(100_000)),
        FixtureBlob { digest: sha512(&small), bytes: small },
        by_sha256(rng.bytes(40_000)),
    ]
}
