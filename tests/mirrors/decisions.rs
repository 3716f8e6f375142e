//! What is served when, over HTTP: the rows of the decision table that a client sees.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::testing::ManualClock;
use jreg_testkit::upstream::{
    RequestKind, ScriptedUpstream, TokenService, UpstreamAuth, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Client, Image, Manifest, ServerSpec, StoreKind, TestServer, media};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{add_image, get, mirror, mirror_by, plain, pull};

/// How long a tag is fresh, in the tests that turn a clock.
const FRESH: Duration = Duration::from_secs(300);
const TAG: &str = "/v2/docker.io/library/app/manifests/v1";

/// The status, the error code and whether there is a warning.
async fn seen(client: &Client, target: &str) -> (u16, Option<String>, bool) {
    let response = get(client, target).await;
    let has_warning = response.header("Warning").is_some_and(|text| text.starts_with("110 "));
    (response.status, response.error_code(), has_warning)
}

/// Waits until the registry is asked again after failures.
async fn recovered(client: &Client, target: &str) {
    for _ in 0..200 {
        let status = get(client, target).await.status;
        if status == 200 {
            return;
        }
        assert_eq!(status, 503);
        sleep(Duration::from_millis(200)).await;
    }
    panic!("{target} is not served again");
}

fn code(status: u16, code: &str) -> (u16, Option<String>, bool) {
    (status, Some(code.to_owned()), false)
}

#[tokio::test]
async fn a_tag_that_is_absent_is_what_the_registry_says() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    for (fault, expected) in [
        (UpstreamFault::status(404), code(404, "MANIFEST_UNKNOWN")),
        (UpstreamFault::status(403), code(404, "NAME_UNKNOWN")),
        (UpstreamFault::too_many_requests(Some(3600)), code(429, "TOOMANYREQUESTS")),
        (UpstreamFault::status(500), code(503, "UNAVAILABLE")),
        (UpstreamFault::NoResponse, code(503, "UNAVAILABLE")),
    ] {
        let server = mirror(&upstream, StoreKind::Memory, "").await;
        upstream.clear_rules();
        upstream.add_rule(UpstreamRule::new(fault.clone()));
        assert_eq!(seen(&server.client(), TAG).await, expected, "{fault:?}");
        upstream.clear_rules();
        // An absence is remembered, a failure is not.
        match expected.0 {
            404 => assert_eq!(seen(&server.client(), TAG).await, expected, "{fault:?}"),
            429 => {}
            _ => recovered(&server.client(), TAG).await,
        }
    }
}

#[tokio::test]
async fn wrong_bytes_are_a_bad_gateway_and_a_limit_has_its_time() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    upstream.add_rule(UpstreamRule::new(UpstreamFault::WrongBytes).on(RequestKind::ManifestGet));
    let wrong = get(&server.client(), TAG).await;
    assert_eq!(wrong.status, 502, "{wrong}");
    upstream.clear_rules();
    upstream.add_rule(UpstreamRule::new(UpstreamFault::too_many_requests(Some(120))));
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let limited = get(&server.client(), TAG).await;
    assert_eq!(limited.status, 429);
    let after: u64 = limited.header("Retry-After").unwrap().parse().unwrap();
    assert!((100..=121).contains(&after), "{after}");
}

/// Regression: a mirror served what a push would refuse, with the media type that the registry made up.
#[tokio::test]
async fn fixed_manifests_that_clients_would_disagree_on_are_a_bad_gateway() {
    let upstream = ScriptedUpstream::start().await;
    let image = Image::plain(1);
    let mut both: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    both["manifests"] = json!([image.manifest.descriptor()]);
    let of =
        |media_type: &str| Manifest { media_type: media_type.to_owned(), ..image.manifest.clone() };
    let cases = [
        ("mismatch", of(media::INDEX)),
        ("page", Manifest { media_type: "text/html".to_owned(), bytes: "{}".into() }),
        ("script", Manifest { media_type: "text/html".to_owned(), bytes: "<script>".into() }),
        ("both", Manifest::compact(media::MANIFEST, &both)),
    ];
    for (tag, manifest) in &cases {
        upstream.add_manifest("library/app", Some(tag), manifest);
    }
    let target = |reference: &str| format!("/v2/docker.io/library/app/manifests/{reference}");
    for store in super::stores() {
        let server = mirror(&upstream, store, "").await;
        let client = server.client();
        for (tag, manifest) in &cases {
            for reference in [(*tag).to_owned(), manifest.digest()] {
                let refused = get(&client, &target(&reference)).await;
                assert_eq!(refused.status, 502, "{reference}: {refused}");
            }
        }
        let head = plain(&client, "HEAD", &target(&cases[1].1.digest())).await;
        assert_eq!(head.status, 502, "{head}");
    }
    let allowed = super::settings(&upstream, "", "manifest-media-types = [\"*/*\"]");
    let spec = ServerSpec { settings: allowed, ..ServerSpec::default() };
    let server = TestServer::start(spec).await;
    assert_eq!(get(&server.client(), &target("page")).await.status, 200);
    assert_eq!(get(&server.client(), &target("mismatch")).await.status, 502);
}

/// What cannot be read for another reason is served, as it is there.
#[tokio::test]
async fn other_manifests_that_cannot_be_stored_are_served() {
    let upstream = ScriptedUpstream::start().await;
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old = Manifest::compact(signed, &json!({"schemaVersion": 1, "fsLayers": []}));
    let lacking = Manifest::compact(media::MANIFEST, &json!({"schemaVersion": 2}));
    for manifest in [old, lacking] {
        upstream.add_manifest("library/app", Some("v1"), &manifest);
        let server = mirror(&upstream, StoreKind::Memory, "").await;
        let got = get(&server.client(), TAG).await;
        assert_eq!((got.status, &got.body), (200, &manifest.bytes));
        assert_eq!(got.header("Content-Type"), Some(manifest.media_type.as_str()));
    }
}

#[tokio::test]
async fn credentials_that_are_refused_are_a_bad_gateway() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    upstream.set_auth(UpstreamAuth::Bearer(TokenService::of_user("me", "right")));
    let table = "username = \"me\"\npassword = \"wrong\"\nallow = [\"**\"]\npublic = true";
    let server = mirror(&upstream, StoreKind::Memory, table).await;
    let refused = get(&server.client(), TAG).await;
    assert_eq!(refused.status, 502, "{refused}");
    let table = "username = \"me\"\npassword = \"right\"\nallow = [\"**\"]\npublic = true";
    let server = mirror(&upstream, StoreKind::Memory, table).await;
    assert_eq!(get(&server.client(), TAG).await.status, 200);
}

#[tokio::test]
async fn stale_content_is_served_with_a_warning_while_the_registry_fails() {
    for (fault, expected) in [
        (UpstreamFault::status(500), (200, None, true)),
        (UpstreamFault::NoResponse, (200, None, true)),
        (UpstreamFault::too_many_requests(Some(3600)), (200, None, true)),
        (UpstreamFault::status(404), code(404, "MANIFEST_UNKNOWN")),
        (UpstreamFault::status(403), code(404, "NAME_UNKNOWN")),
    ] {
        let upstream = ScriptedUpstream::start().await;
        let image = add_image(&upstream, 1);
        let server = mirror(&upstream, StoreKind::Memory, "fresh = \"0s\"").await;
        let client = server.client();
        pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
        upstream.add_rule(UpstreamRule::new(fault.clone()));
        assert_eq!(seen(&client, TAG).await, expected, "{fault:?}");
        // What is named by its digest needs no check.
        let digest = format!("/v2/docker.io/library/app/manifests/{}", image.manifest.digest());
        assert_eq!(seen(&client, &digest).await, (200, None, false));
    }
}

#[tokio::test]
async fn stale_content_that_is_too_old_is_not_served() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    let table = "fresh = \"0s\"\nstale-if-error = \"0s\"";
    let server = mirror(&upstream, StoreKind::Memory, table).await;
    assert_eq!(get(&server.client(), TAG).await.status, 200);
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(500)));
    assert_eq!(seen(&server.client(), TAG).await, code(503, "UNAVAILABLE"));
}

#[tokio::test]
async fn a_tag_that_is_gone_is_kept_where_the_settings_say_so() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    for (table, expected) in [
        ("fresh = \"0s\"", code(404, "MANIFEST_UNKNOWN")),
        ("fresh = \"0s\"\non-gone = \"keep\"", (200, None, true)),
    ] {
        let image = add_image(&upstream, 1);
        let server = mirror(&upstream, StoreKind::Memory, table).await;
        assert_eq!(get(&server.client(), TAG).await.status, 200);
        upstream.remove_tag("library/app", "v1");
        assert_eq!(seen(&server.client(), TAG).await, expected);
        drop(image);
    }
}

#[tokio::test]
async fn a_fresh_tag_costs_nothing_and_a_stale_one_a_head() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let clock = Arc::new(ManualClock::default());
    let server = mirror_by(&clock, &upstream, "fresh = \"5m\"").await;
    let client = server.client();
    pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
    upstream.clear_requests();
    clock.advance(FRESH - Duration::from_secs(1));
    pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
    assert!(upstream.requests().is_empty());
    clock.advance(FRESH + Duration::from_secs(1));
    pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
    let counts = upstream.counts();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(RequestKind::ManifestHead, 1)]);
    // One that has moved.
    let other = Image::plain(2);
    upstream.add_image("library/app", Some("v1"), &other);
    clock.advance(FRESH + Duration::from_secs(1));
    upstream.clear_requests();
    let head = plain(&client, "HEAD", TAG).await;
    assert_eq!(head.header("Docker-Content-Digest"), Some(other.manifest.digest().as_str()));
    pull(&client, "/v2/docker.io/library/app", "", "v1", &other).await;
    assert_eq!(upstream.count(RequestKind::ManifestHead), 1);
    assert_eq!(upstream.count(RequestKind::ManifestGet), 1);
}

#[tokio::test]
async fn a_head_of_a_digest_is_forwarded_and_fetches_nothing() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    let manifest = format!("/v2/docker.io/library/app/manifests/{}", image.manifest.digest());
    let head = plain(&client, "HEAD", &manifest).await;
    assert_eq!(head.status, 200);
    assert_eq!(
        head.header("Content-Length"),
        Some(image.manifest.bytes.len().to_string().as_str())
    );
    assert_eq!(head.header("Content-Type"), Some(image.manifest.media_type.as_str()));
    let blob = &image.blobs[0];
    let head =
        plain(&client, "HEAD", &format!("/v2/docker.io/library/app/blobs/{}", blob.digest())).await;
    assert_eq!(head.header("Content-Length"), Some(blob.bytes.len().to_string().as_str()));
    let counts: Vec<_> = upstream.counts().into_iter().collect();
    assert_eq!(counts, [(RequestKind::ManifestHead, 1), (RequestKind::BlobHead, 1)]);
    assert!(!server.entries().await.iter().any(|key| key.starts_with("repositories/")));
}

#[tokio::test]
async fn a_failure_is_no_empty_list() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let signature = Image::referrer(2, &image.manifest, "application/vnd.test");
    upstream.add_image("library/app", None, &signature);
    let server = mirror(&upstream, StoreKind::Memory, "fresh = \"0s\"").await;
    let client = server.client();
    let referrers = format!("/v2/docker.io/library/app/referrers/{}", image.manifest.digest());
    let tags = "/v2/docker.io/library/app/tags/list";
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(500)));
    assert_eq!(seen(&client, &referrers).await, code(503, "UNAVAILABLE"));
    assert_eq!(seen(&client, tags).await, code(503, "UNAVAILABLE"));
    upstream.clear_rules();
    recovered(&client, &referrers).await;
    for has_api in [true, false] {
        upstream.set_referrers_api(has_api);
        if !has_api {
            let tag = image.manifest.digest().replace(':', "-");
            upstream.add_manifest(
                "library/app",
                Some(&tag),
                &jreg_testkit::index_of(&[signature.manifest.descriptor()]),
            );
        }
        let listed = get(&client, &referrers).await;
        assert_eq!(listed.status, 200, "{listed}");
        let manifests = listed.json()["manifests"].as_array().unwrap().len();
        assert_eq!(manifests, 1, "{listed}");
    }
    let listed = get(&client, tags).await.json();
    assert!(listed["tags"].as_array().unwrap().iter().any(|tag| tag == "v1"), "{listed}");
    assert_eq!(get(&client, TAG).await.status, 200);
    // What was read before is served with a warning.
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(500)));
    assert_eq!(seen(&client, &referrers).await, (200, None, true));
    let listed = get(&client, tags).await;
    assert_eq!((listed.status, listed.json()["tags"].clone()), (200, serde_json::json!(["v1"])));
    assert!(listed.header("Warning").is_some());
}
