//! By which names clients reach a mirror.

use jreg_testkit::upstream::{RequestKind, ScriptedUpstream};
use jreg_testkit::{Image, StoreKind};

use super::{add_image, get, mirror, plain, pull};

#[tokio::test]
async fn three_ways_of_naming_lead_to_the_same_repository() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    for (path, query) in [
        ("/v2/library/app", "?ns=docker.io"),
        ("/v2/app", "?ns=index.docker.io"),
        ("/v2/docker.io/library/app", ""),
        ("/v2/docker.io/library/app", "?ns=docker.io"),
        ("/v2/docker.io/app", ""),
        ("/docker.io/v2/library/app", ""),
        ("/docker.io/v2/app", ""),
    ] {
        pull(&client, path, query, "v1", &image).await;
    }
    let counts = upstream.counts();
    assert_eq!(counts.get(&RequestKind::ManifestHead), Some(&1), "{counts:?}");
    assert_eq!(counts.get(&RequestKind::ManifestGet), Some(&1), "{counts:?}");
    assert_eq!(counts.get(&RequestKind::BlobGet), Some(&image.blobs.len()), "{counts:?}");
    let listed = get(&client, "/v2/_catalog").await.json();
    assert_eq!(listed["repositories"], serde_json::json!(["docker.io/library/app"]));
}

#[tokio::test]
async fn the_namespace_is_repeated_where_it_was_given() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    for (target, namespace) in [
        ("/v2/library/app/manifests/v1?ns=docker.io", Some("docker.io")),
        ("/v2/library/app/manifests/v1?ns=index.docker.io", Some("index.docker.io")),
        ("/v2/library/app/manifests/none?ns=docker.io", Some("docker.io")),
        ("/v2/docker.io/library/app/manifests/v1", None),
        ("/docker.io/v2/library/app/manifests/v1", None),
    ] {
        assert_eq!(get(&client, target).await.header("OCI-Namespace"), namespace, "{target}");
    }
}

#[tokio::test]
async fn local_names_and_unknown_namespaces_are_not_asked_for() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    for target in ["/v2/library/app/manifests/v1", "/v2/library/app/manifests/v1?ns=quay.io"] {
        let absent = get(&client, target).await;
        assert_eq!(
            (absent.status, absent.error_code().as_deref()),
            (404, Some("MANIFEST_UNKNOWN"))
        );
    }
    let refusing = super::settings(&upstream, "", "unknown-ns = \"refuse\"");
    let spec = jreg_testkit::ServerSpec { settings: refusing, ..Default::default() };
    let refusing = jreg_testkit::TestServer::start(spec).await;
    let unknown = get(&refusing.client(), "/v2/library/app/manifests/v1?ns=quay.io").await;
    assert_eq!((unknown.status, unknown.error_code().as_deref()), (404, Some("NAME_UNKNOWN")));
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_mirror_is_not_pushed_to() {
    let upstream = ScriptedUpstream::start().await;
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    for (method, target) in [
        ("POST", "/v2/docker.io/library/app/blobs/uploads/"),
        ("POST", "/docker.io/v2/library/app/blobs/uploads/"),
        ("POST", "/v2/library/app/blobs/uploads/?ns=docker.io"),
        ("PUT", "/v2/docker.io/library/app/manifests/v1"),
        ("PATCH", "/v2/docker.io/library/app/blobs/uploads/x"),
    ] {
        let refused = plain(&client, method, target).await;
        assert_eq!((refused.status, refused.error_code().as_deref()), (405, Some("UNSUPPORTED")));
        assert_eq!(refused.header("Allow"), Some("GET, HEAD, DELETE"));
    }
    let other = plain(&client, "POST", "/v2/docker.io/blobs/uploads/").await;
    assert_eq!(other.status, 202, "the prefix alone is a local repository");
}

#[tokio::test]
async fn delete_evicts() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
    let tag = "/v2/docker.io/library/app/manifests/v1";
    let manifest = format!("/v2/docker.io/library/app/manifests/{}", image.manifest.digest());
    for (target, status) in [(tag, 202), (tag, 404), (&manifest, 202), (&manifest, 404)] {
        assert_eq!(plain(&client, "DELETE", target).await.status, status, "{target}");
    }
    upstream.clear_requests();
    pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
    assert_eq!(upstream.count(RequestKind::ManifestGet), 1);
    assert_eq!(upstream.count(RequestKind::BlobGet), 0, "the blobs are still there");
}

#[tokio::test]
async fn tags_that_clients_pushed_before_win() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let store: std::sync::Arc<dyn jreg_storage::Store> =
        std::sync::Arc::new(jreg_storage::MemoryStore::new());
    let spec = || jreg_testkit::ServerSpec::default().store(StoreKind::Given(store.clone()));
    let own = jreg_testkit::index_of(&[]);
    let before = jreg_testkit::TestServer::start(spec()).await;
    let request = jreg_testkit::Request::new("PUT", "/v2/docker.io/library/app/manifests/v1")
        .header("Content-Type", jreg_testkit::media::INDEX)
        .body(own.bytes.clone());
    assert_eq!(before.client().send(request).await.status, 201);
    before.stop().await;
    let settings = super::settings(&upstream, "", "");
    let server =
        jreg_testkit::TestServer::start(jreg_testkit::ServerSpec { settings, ..spec() }).await;
    let client = server.client();
    let served = get(&client, "/v2/docker.io/library/app/manifests/v1").await;
    assert_eq!(served.body, own.bytes);
    upstream.set_tag("library/app", "v2", &image.manifest.digest());
    let mirrored = get(&client, "/v2/docker.io/library/app/manifests/v2").await;
    assert_eq!(mirrored.body, image.manifest.bytes);
}

/// Regression: the pages of a mirrored repository listed no tag, and an image that was pulled was not found.
#[tokio::test]
async fn fixed_pages_show_the_tags_that_were_pulled_through_a_mirror() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    upstream.add_image("library/app", Some("never-pulled"), &Image::plain(2));
    for (store, fresh) in super::stores().into_iter().zip(["5m", "0s", "5m"]) {
        let server = mirror(&upstream, store, &format!("fresh = \"{fresh}\"")).await;
        let client = server.client();
        pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
        upstream.clear_requests();
        for (page, shows) in [
            ("/ui/docker.io/library/app", "docker.io/library/app:v1"),
            ("/ui/docker.io/library/app?order=newest", "docker.io/library/app:v1"),
            ("/ui/docker.io/library/app:v1", &*image.manifest.digest()),
        ] {
            let got = get(&client, page).await;
            assert_eq!(got.status, 200, "{page}: {got}");
            let html = String::from_utf8(got.body.to_vec()).unwrap();
            assert!(html.contains(shows), "{page}: no {shows} in {html}");
            assert!(!html.contains("never-pulled"), "{page}");
        }
        let absent = get(&client, "/ui/docker.io/library/app:never-pulled").await;
        assert_eq!(absent.status, 404, "{absent}");
        assert_eq!(upstream.requests().len(), 0, "pages send no request");
    }
}
