//! The scenarios of zot's tests of its `sync` extension (`test/blackbox/sync.bats`): images, indexes, signatures by tag and
//! by referrers, charts and artifacts, each on demand and in advance, byte for byte.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::testing::ManualClock;
use jreg_testkit::upstream::{RequestKind, ScriptedUpstream, UpstreamFault, UpstreamRule};
use jreg_testkit::{Blob, Client, Image, ImageSpec, Manifest, StoreKind, index_of, media, sha256};
use serde_json::{Value, json};

use super::sync::Scene;
use super::{get, mirror, mirror_by, pull};

const NAME: &str = "library/app";
const LOCAL: &str = "docker.io/library/app";
const NOTATION: &str = "application/vnd.cncf.notary.signature";
const CHART: &str = "application/vnd.cncf.helm.config.v1+json";

/// What is in the registry: content with tags, and referrers.
struct Content {
    tagged: Vec<(String, Image)>,
    index: Manifest,
    /// Each with its subject.
    referrers: Vec<(Manifest, Image)>,
    artifact: Manifest,
    artifact_blob: Blob,
}

impl Content {
    fn new() -> Self {
        let (image, other) = (Image::plain(1), Image::plain(2));
        let platform = |image: &Image, architecture: &str| {
            let mut entry = image.manifest.descriptor();
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        };
        let index = index_of(&[platform(&image, "amd64"), platform(&other, "arm64")]);
        let of_type = |seed, config_type, artifact_type| {
            ImageSpec { seed, config_type, artifact_type, layers: 1, ..ImageSpec::default() }
                .build()
        };
        let cosign = format!("{}.sig", image.manifest.digest().replace(':', "-"));
        let tagged = vec![
            ("image".to_owned(), image.clone()),
            ("other".to_owned(), other),
            (cosign, Image::plain(3)),
            ("chart".to_owned(), of_type(4, CHART, None)),
            ("oras".to_owned(), of_type(5, media::EMPTY, Some("acme/rocket"))),
        ];
        let notation = Image::referrer(6, &image.manifest, NOTATION);
        let of_index = Image::referrer(7, &index, "application/sbom.example");
        let nested = Image::referrer(8, &notation.manifest, "signature.example");
        let referrers = vec![
            (image.manifest, notation.clone()),
            (index.clone(), of_index),
            (notation.manifest, nested),
        ];
        let artifact_blob = Blob { media_type: media::LAYER, bytes: "an artifact".into() };
        let artifact = json!({
            "mediaType": media::ARTIFACT,
            "artifactType": "application/vnd.example.artifact",
            "blobs": [artifact_blob.descriptor()],
        });
        let artifact = Manifest::compact(media::ARTIFACT, &artifact);
        Self { tagged, index, referrers, artifact, artifact_blob }
    }

    fn add_to(&self, upstream: &ScriptedUpstream) {
        for (tag, image) in &self.tagged {
            upstream.add_image(NAME, Some(tag), image);
        }
        upstream.add_manifest(NAME, Some("index"), &self.index);
        upstream.add_blob(NAME, self.artifact_blob.bytes.clone());
        upstream.add_manifest(NAME, Some("artifact"), &self.artifact);
        for (_, referrer) in &self.referrers {
            upstream.add_image(NAME, None, referrer);
        }
    }

    /// All of it is pulled through a mirror.
    async fn check(&self, client: &Client) {
        let path = format!("/v2/{LOCAL}");
        for (tag, image) in &self.tagged {
            pull(client, &path, "", tag, image).await;
        }
        for (tag, manifest) in [("index", &self.index), ("artifact", &self.artifact)] {
            let pulled = get(client, &format!("{path}/manifests/{tag}")).await;
            assert_eq!((pulled.status, &pulled.body), (200, &manifest.bytes), "{tag}");
            assert_eq!(pulled.header("Content-Type"), Some(&*manifest.media_type));
        }
        let blob = get(client, &format!("{path}/blobs/{}", self.artifact_blob.digest())).await;
        assert_eq!((blob.status, &blob.body), (200, &self.artifact_blob.bytes));
        for (_, referrer) in &self.referrers {
            pull(client, &path, "", &referrer.manifest.digest(), referrer).await;
        }
    }

    /// The lists of referrers are those of the registry.
    async fn check_referrers(&self, client: &Client) {
        for (subject, referrer) in &self.referrers {
            let list = format!("/v2/{LOCAL}/referrers/{}", subject.digest());
            let listed: Value = get(client, &list).await.json();
            let found: Vec<_> = listed["manifests"].as_array().unwrap().iter().collect();
            assert_eq!(found.len(), 1, "{listed}");
            assert_eq!(found[0]["digest"], referrer.manifest.digest());
            assert!(found[0]["artifactType"].is_string() && found[0]["annotations"].is_object());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_on_demand() {
    for store in [StoreKind::Folder, StoreKind::Bucket] {
        let (upstream, content) = (ScriptedUpstream::start().await, Content::new());
        content.add_to(&upstream);
        let server = mirror(&upstream, store, "").await;
        content.check(&server.client()).await;
        content.check_referrers(&server.client()).await;
        let gets =
            [RequestKind::ManifestGet, RequestKind::BlobGet].map(|kind| upstream.count(kind));
        // Once each: the second time all of it is here.
        content.check(&server.client()).await;
        content.check_referrers(&server.client()).await;
        let after =
            [RequestKind::ManifestGet, RequestKind::BlobGet].map(|kind| upstream.count(kind));
        assert_eq!(after, gets);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn everything_comes_in_advance() {
    let (scene, content) = (Scene::new().await, Content::new());
    content.add_to(&scene.upstream);
    let process = scene.serve();
    let (_, report) = scene.sync(&[&format!("{LOCAL}:*")]);
    assert_eq!(report["failed"], 0, "{report}");
    content.check_referrers(&process.client()).await;
    scene.upstream.add_rule(UpstreamRule::new(UpstreamFault::status(503)));
    content.check(&process.client()).await;
}

/// An index of layers, as build caches are, and one that lacks an entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn indexes_of_blobs_and_with_holes_come_in_advance() {
    let scene = Scene::new().await;
    let (image, gone) = (Image::plain(1), Image::plain(2));
    let cache = index_of(&image.blobs.iter().map(Blob::descriptor).collect::<Vec<_>>());
    for blob in &image.blobs {
        scene.upstream.add_blob(NAME, blob.bytes.clone());
    }
    scene.upstream.add_manifest(NAME, Some("cache"), &cache);
    scene.upstream.add_image(NAME, Some("image"), &image);
    let sparse = index_of(&[image.manifest.descriptor(), gone.manifest.descriptor()]);
    scene.upstream.add_manifest(NAME, Some("sparse"), &sparse);
    let process = scene.serve();
    let (_, report) = scene.sync(&[&format!("{LOCAL}:cache"), &format!("{LOCAL}:sparse")]);
    assert_eq!((&report["failed"], &report["blobs_fetched"]), (&json!(0), &json!(3)), "{report}");
    scene.upstream.add_rule(UpstreamRule::new(UpstreamFault::status(503)));
    pull(&process.client(), &format!("/v2/{LOCAL}"), "", &image.manifest.digest(), &image).await;
}

/// `manifestCheckInterval` of zot.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_checked_again_after_the_interval_and_not_before() {
    let upstream = ScriptedUpstream::start().await;
    let (old, new) = (Image::plain(1), Image::plain(2));
    upstream.add_image(NAME, Some("v1"), &old);
    let clock = Arc::new(ManualClock::default());
    let server = mirror_by(&clock, &upstream, "fresh = \"1h\"").await;
    let (client, path) = (server.client(), format!("/v2/{LOCAL}"));
    pull(&client, &path, "", "v1", &old).await;
    upstream.add_image(NAME, Some("v1"), &new);
    upstream.clear_requests();
    clock.advance(Duration::from_secs(3599));
    pull(&client, &path, "", "v1", &old).await;
    assert_eq!(upstream.count(RequestKind::ManifestHead), 0);
    clock.advance(Duration::from_secs(2));
    pull(&client, &path, "", "v1", &new).await;
    assert_eq!(upstream.count(RequestKind::ManifestHead), 1);
    assert_eq!(upstream.count_of(RequestKind::ManifestGet, &sha256(&new.manifest.bytes)), 1);
}
