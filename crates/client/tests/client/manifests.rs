//! Manifests by tag and by digest.

use jreg_client::{UpstreamErrorKind, UpstreamRequestKind};
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Image, Manifest, media};
use serde_json::json;

use super::{client, client_with, digest, kind, name, reference};

#[tokio::test]
async fn a_manifest_comes_by_tag_and_by_digest() {
    let upstream = ScriptedUpstream::start().await;
    let image = Image::plain(1);
    let hex = upstream.add_image(super::REPOSITORY, Some("v1"), &image);
    let client = client(&upstream);
    for text in ["v1", hex.as_str(), image.manifest.digest512().as_str()] {
        let head = client.head_manifest(&name(), &reference(text)).await.unwrap();
        let manifest = client.get_manifest(&name(), &reference(text)).await.unwrap();
        let expected = if text == "v1" { &hex } else { text };
        assert_eq!(head.digest, digest(expected));
        assert_eq!(head.media_type.as_ref(), Some(&manifest.media_type));
        assert_eq!(head.size, Some(image.manifest.bytes.len() as u64));
        assert_eq!(manifest.digest, digest(expected));
        assert_eq!(manifest.bytes, image.manifest.bytes);
        assert_eq!(manifest.media_type.as_str(), media::MANIFEST);
        assert!(manifest.etag.is_some() && manifest.etag == head.etag);
    }
    for request in upstream.requests() {
        let accept = request.accept.unwrap();
        for wanted in [
            media::MANIFEST,
            media::INDEX,
            media::DOCKER_MANIFEST,
            media::DOCKER_LIST,
            media::ARTIFACT,
        ] {
            assert!(accept.contains(wanted), "{accept}");
        }
        assert_eq!(request.authorization, None);
        assert!(request.user_agent.unwrap().starts_with("jreg/"));
    }
}

#[tokio::test]
async fn a_general_media_type_is_replaced_by_that_of_the_document() {
    let upstream = ScriptedUpstream::start().await;
    let index =
        Manifest::compact("application/json", &json!({"schemaVersion": 2, "manifests": []}));
    upstream.add_manifest(super::REPOSITORY, Some("index"), &index);
    let document = json!({"schemaVersion": 2, "mediaType": media::DOCKER_MANIFEST, "config": {}});
    upstream.add_manifest(
        super::REPOSITORY,
        Some("image"),
        &Manifest::compact("text/plain", &document),
    );
    upstream.add_manifest(
        super::REPOSITORY,
        Some("page"),
        &Manifest::compact("text/plain", &json!("hello")),
    );
    let client = client(&upstream);
    let get = async |tag| client.get_manifest(&name(), &reference(tag)).await;
    assert_eq!(get("index").await.unwrap().media_type.as_str(), media::INDEX);
    assert_eq!(get("image").await.unwrap().media_type.as_str(), media::DOCKER_MANIFEST);
    assert!(matches!(kind(get("page").await), UpstreamErrorKind::Protocol { .. }));
}

#[tokio::test]
async fn a_head_without_a_digest_is_followed_by_a_get() {
    let upstream = ScriptedUpstream::start().await;
    let hex = upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream.add_rule(UpstreamRule::new(UpstreamFault::NoDigestHeader));
    let client = client(&upstream);
    let head = client.head_manifest(&name(), &reference("v1")).await.unwrap();
    assert_eq!(head.digest, digest(&hex));
    assert_eq!(
        (upstream.count(RequestKind::ManifestHead), upstream.count(RequestKind::ManifestGet)),
        (1, 1)
    );
    // Of a digest, the digest is known.
    client.head_manifest(&name(), &reference(&hex)).await.unwrap();
    assert_eq!(
        (upstream.count(RequestKind::ManifestHead), upstream.count(RequestKind::ManifestGet)),
        (2, 1)
    );
    // Some registries have no HEAD.
    upstream.clear_rules();
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(405)).on(RequestKind::ManifestHead));
    let head = client.head_manifest(&name(), &reference("v1")).await.unwrap();
    assert_eq!(head.digest, digest(&hex));
}

#[tokio::test]
async fn wrong_bytes_and_wrong_headers_are_never_returned() {
    let upstream = ScriptedUpstream::start().await;
    let hex = upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    for fault in
        [UpstreamFault::WrongBytes, UpstreamFault::WrongDigestHeader, UpstreamFault::LongBody(1)]
    {
        upstream.clear_rules();
        upstream.add_rule(UpstreamRule::new(fault.clone()).on(RequestKind::ManifestGet));
        let client = client(&upstream);
        let error = kind(client.get_manifest(&name(), &reference("v1")).await);
        assert!(matches!(error, UpstreamErrorKind::WrongDigest { .. }), "{fault:?}: {error}");
        let by_digest = client.get_manifest(&name(), &reference(&hex)).await;
        match fault {
            // The bytes have the digest that was requested.
            UpstreamFault::WrongDigestHeader => assert_eq!(by_digest.unwrap().digest, digest(&hex)),
            _ => assert!(matches!(kind(by_digest), UpstreamErrorKind::WrongDigest { .. })),
        }
    }
    upstream.clear_rules();
    upstream.add_rule(
        UpstreamRule::new(UpstreamFault::WrongDigestHeader).on(RequestKind::ManifestHead),
    );
    let error = kind(client(&upstream).head_manifest(&name(), &reference(&hex)).await);
    assert!(matches!(error, UpstreamErrorKind::WrongDigest { .. }), "{error}");
}

#[tokio::test]
async fn a_url_that_serves_other_bytes_is_left_out_for_a_while() {
    let (wrong, right) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
    let image = Image::plain(1);
    let hex = wrong.add_image(super::REPOSITORY, None, &image);
    right.add_image(super::REPOSITORY, None, &image);
    wrong.add_rule(UpstreamRule::new(UpstreamFault::WrongBytes));
    let options =
        super::options([&wrong.url(), &right.url()], jreg_client::CredentialSource::Anonymous);
    let client = jreg_client::UpstreamClient::new(options).unwrap();
    for _ in 0..3 {
        assert_eq!(
            client.get_manifest(&name(), &reference(&hex)).await.unwrap().bytes,
            image.manifest.bytes
        );
    }
    assert_eq!(
        (wrong.count(RequestKind::ManifestGet), right.count(RequestKind::ManifestGet)),
        (1, 3)
    );
}

/// Regression: without a pause after wrong content, and by a tag with one, a URL was asked for it three times.
#[tokio::test]
async fn fixed_wrong_manifest_is_requested_once_whatever_the_pause() {
    let upstream = ScriptedUpstream::start().await;
    let hex = upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream.add_rule(UpstreamRule::new(UpstreamFault::WrongBytes).on(RequestKind::ManifestGet));
    for text in ["v1", hex.as_str()] {
        upstream.clear_requests();
        let client = client_with(&upstream, |options| {
            options.limits.mismatch_pause = std::time::Duration::ZERO;
        });
        let error = kind(client.get_manifest(&name(), &reference(text)).await);
        assert!(matches!(error, UpstreamErrorKind::WrongDigest { .. }), "{error}");
        assert_eq!(upstream.count(RequestKind::ManifestGet), 1, "{text}");
    }
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_read_again() {
    let upstream = ScriptedUpstream::start().await;
    let image = Image::plain(1);
    upstream.add_image(super::REPOSITORY, Some("v1"), &image);
    let reset = UpstreamRule::new(UpstreamFault::ResetAfter(10)).on(RequestKind::ManifestGet);
    upstream.add_rule(reset.pick(RulePick::First(2)));
    let manifest = client(&upstream).get_manifest(&name(), &reference("v1")).await.unwrap();
    assert_eq!(manifest.bytes, image.manifest.bytes);
}

#[tokio::test]
async fn a_manifest_above_the_limit_is_not_read() {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    for fault in [UpstreamFault::Delay(std::time::Duration::ZERO), UpstreamFault::NoContentLength] {
        upstream.clear_rules();
        upstream.add_rule(UpstreamRule::new(fault));
        let client = client_with(&upstream, |options| options.limits.manifest_bytes_max = 100);
        let error = kind(client.get_manifest(&name(), &reference("v1")).await);
        assert_eq!(error, UpstreamErrorKind::TooLarge { bytes_max: 100 });
    }
}

#[tokio::test]
async fn requests_are_counted_by_outcome_and_the_rate_limit_is_told() {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    let client = client(&upstream);
    assert_eq!(client.rate_limit(), None);
    upstream.set_header("ratelimit-limit", "100;w=21600");
    upstream.set_header("ratelimit-remaining", "99;w=21600");
    client.head_manifest(&name(), &reference("v1")).await.unwrap();
    client.head_manifest(&name(), &reference("v2")).await.unwrap_err();
    client.ping().await.unwrap();
    let limit = client.rate_limit().unwrap();
    assert_eq!((limit.limit, limit.remaining), (Some(100), Some(99)));
    assert_eq!(limit.window, Some(std::time::Duration::from_secs(21600)));
    let counts = client.statistics().requests;
    let count = |wanted, outcome: &str| {
        let found =
            counts.iter().find(|(kind, found, _)| *kind == wanted && found.as_str() == outcome);
        found.map_or(0, |(_, _, count)| *count)
    };
    assert_eq!(count(UpstreamRequestKind::ManifestHead, "ok"), 1);
    assert_eq!(count(UpstreamRequestKind::ManifestHead, "not_found"), 1);
    assert_eq!(count(UpstreamRequestKind::Ping, "ok"), 1);
}
