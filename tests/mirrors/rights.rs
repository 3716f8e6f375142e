//! Who may have what fetched, and that content of one registry stays with it.

use std::time::Duration;

use async_trait::async_trait;
use jreg_access::{
    AuthContext, AuthError, Authorizer, CredentialState, Principal, RefusedAccess, RequestInfo,
    Right,
};
use jreg_auth::DecisionReason;
use jreg_oci::Tag;
use jreg_testkit::upstream::{RequestKind, ScriptedUpstream, UpstreamFault, UpstreamRule};
use jreg_testkit::{Request, Rng, ServerSpec, StoreKind, TestServer, sha256};

use super::{add_image, get, mirror, partial, pull, settings};

/// Everyone may pull; only those who say the word may fetch.
#[derive(Debug)]
struct Fetchers;

#[async_trait]
impl Authorizer for Fetchers {
    async fn identify(&self, info: RequestInfo, _: &Right) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Principal::anonymous(), info))
    }

    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        let word = auth.request_info.headers.get("X-Word");
        match right {
            Right::Fetch(_) if word.is_none() => Err(AuthError::Forbidden {
                access: RefusedAccess::new(CredentialState::No, right),
                reason: "no word".to_owned(),
            }),
            _ => Ok(DecisionReason::Open),
        }
    }

    fn grant_tag(&self, a: &AuthContext, r: &Right, _: &Tag) -> Result<DecisionReason, AuthError> {
        self.grant(a, r)
    }

    fn depends_on_tag(&self, _: &AuthContext, _: &Right) -> bool {
        false
    }
}

#[tokio::test]
async fn only_those_who_may_fetch_cause_requests() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let spec =
        ServerSpec { settings: settings(&upstream, "fresh = \"0s\"", ""), ..ServerSpec::default() };
    let server = TestServer::start(spec.authorizer(Fetchers)).await;
    let client = server.client();
    let (name, digest) = ("/v2/docker.io/library/app", image.manifest.digest());
    let tag = format!("{name}/manifests/v1");
    let blob = format!("{name}/blobs/{}", image.blobs[0].digest());
    for target in [
        tag.clone(),
        format!("{name}/manifests/{digest}"),
        blob.clone(),
        format!("{name}/referrers/{digest}"),
        format!("{name}/tags/list"),
    ] {
        for method in ["GET", "HEAD"] {
            let refused = super::plain(&client, method, &target).await;
            assert_eq!(refused.status, 403, "{method} {target}");
        }
    }
    assert!(upstream.requests().is_empty());
    let fetch = |target: &str| {
        Request::new("GET", target).header("X-Word", "yes").header("Connection", "close")
    };
    for target in [&tag, &blob] {
        assert_eq!(client.send_unchecked(&fetch(target)).await.unwrap().status, 200);
    }
    upstream.clear_requests();
    // What is stored is for everyone who may pull; that it is not confirmed is said.
    let stale = get(&client, &tag).await;
    assert_eq!(stale.status, 200);
    assert!(stale.header("Warning").is_some());
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn content_of_one_registry_is_not_read_through_another_mirror() {
    for store in [StoreKind::Memory, StoreKind::Folder, StoreKind::Bucket] {
        let (private, public) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
        let image = add_image(&private, 1);
        let other = format!(
            "[[mirror]]\nnamespace = \"quay.io\"\nupstream = \"{}\"\nnegative = \"0s\"",
            public.url()
        );
        let settings = settings(&private, "", &other);
        let spec = ServerSpec { settings, ..ServerSpec::default() };
        let server = TestServer::start(spec.store(store)).await;
        let client = server.client();
        pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
        let manifest = image.manifest.digest();
        let blob = image.blobs[0].digest();
        for target in [
            format!("/v2/quay.io/library/app/manifests/{manifest}"),
            "/v2/quay.io/library/app/manifests/v1".to_owned(),
            format!("/v2/quay.io/library/app/blobs/{blob}"),
            format!("/v2/quay.io/library/app/blobs/{blob}?mount=x"),
        ] {
            assert_eq!(get(&client, &target).await.status, 404, "{target}");
        }
        // Once it has the blob as well, it is asked for the bytes.
        public.clear_requests();
        public.add_blob("library/app", image.blobs[0].bytes.clone());
        let sent = get(&client, &format!("/v2/quay.io/library/app/blobs/{blob}")).await;
        assert_eq!(sent.body, image.blobs[0].bytes);
        assert_eq!(public.count(RequestKind::BlobGet), 1);
        server.stop().await;
    }
}

/// Regression: a registry that only said that it has a blob got a link to what others had sent, or clients had
/// pushed, and who may read its mirror read that.
#[tokio::test(flavor = "multi_thread")]
async fn fixed_a_registry_that_lies_about_a_blob_gets_nobody_the_content_of_others() {
    for store in super::stores() {
        let (private, liar) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
        let [mirrored, pushed] = [1, 2].map(|seed| Rng::new(seed).bytes(200_000));
        let digests = [private.add_blob("library/app", mirrored.clone()), sha256(&pushed)];
        let table = format!("[[mirror]]\nnamespace = \"quay.io\"\nupstream = \"{}\"", liar.url());
        let spec = ServerSpec { settings: settings(&private, "", &table), ..ServerSpec::default() };
        let server = TestServer::start(spec.store(store)).await;
        let client = server.client();
        let own = format!("/v2/docker.io/library/app/blobs/{}", digests[0]);
        assert_eq!(get(&client, &own).await.body, mirrored);
        let push = format!("/v2/secret/app/blobs/uploads/?digest={}", digests[1]);
        let push = Request::new("POST", push).body(pushed.clone());
        assert_eq!(client.send(push).await.status, 201);
        // It has bytes of that length, says that they have the digest, and takes its time.
        liar.add_blob("a/b", mirrored);
        liar.add_blob("a/b", pushed);
        let slow = UpstreamFault::Slow { chunk: 16 << 10, pause: Duration::from_millis(20) };
        for fault in [UpstreamFault::WrongStart, slow] {
            liar.add_rule(UpstreamRule::new(fault).on(RequestKind::BlobGet));
        }
        for digest in digests {
            let target = format!("/v2/quay.io/a/b/blobs/{digest}");
            let (_, length, came) = partial(&client, &target).await;
            assert!(came.len() < length.max(1), "{digest}: all of {length}");
            let entries = server.entries().await;
            assert!(
                !entries.iter().any(|entry| entry.contains("links/") && entry.contains("quay"))
            );
        }
        server.stop().await;
    }
}

/// A registry that has another blob of the size under the digest gets nobody the right one.
#[tokio::test]
async fn a_registry_that_serves_other_bytes_gets_no_link() {
    let (right, wrong) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
    let bytes = Rng::new(1).bytes(100_000);
    let digest = right.add_blob("library/app", bytes.clone());
    wrong.add_blob("library/app", bytes.slice(..50_000));
    let other = format!("[[mirror]]\nnamespace = \"quay.io\"\nupstream = \"{}\"", wrong.url());
    let spec = ServerSpec { settings: settings(&right, "", &other), ..ServerSpec::default() };
    let server = TestServer::start(spec).await;
    let client = server.client();
    assert_eq!(
        get(&client, &format!("/v2/docker.io/library/app/blobs/{digest}")).await.body,
        bytes
    );
    assert_eq!(get(&client, &format!("/v2/quay.io/library/app/blobs/{digest}")).await.status, 404);
    assert_eq!(wrong.count(RequestKind::BlobGet), 1);
}

#[tokio::test]
async fn only_allowed_repositories_are_mirrored() {
    let upstream = ScriptedUpstream::start().await;
    add_image(&upstream, 1);
    let table = "allow = [\"library/**\"]\ndeny = [\"library/app\"]";
    let spec = ServerSpec { settings: settings(&upstream, table, ""), ..ServerSpec::default() };
    let server = TestServer::start(spec).await;
    let client = server.client();
    for name in ["library/app", "other/app"] {
        let refused = get(&client, &format!("/v2/docker.io/{name}/manifests/v1")).await;
        assert_eq!((refused.status, refused.error_code().as_deref()), (404, Some("NAME_UNKNOWN")));
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn credentials_are_not_shown_to_everyone_by_accident() {
    let upstream = ScriptedUpstream::start().await;
    let table = "username = \"me\"\npassword = \"x\"\nallow = [\"**\"]";
    let store = || std::sync::Arc::new(jreg_storage::MemoryStore::new());
    for (others, starts) in [("", false), ("authentication = true", true)] {
        let settings = settings(&upstream, table, others);
        let built = jreg::app::App::build(settings, store()).await;
        assert_eq!(built.is_ok(), starts, "{others}");
    }
    let open = settings(&upstream, table, "authentication = true\nanonymous-pull = true");
    let refused = jreg::app::App::build(open, store()).await.unwrap_err().to_string();
    assert!(refused.contains("public = true"), "{refused}");
    let public = settings(&upstream, &format!("{table}\npublic = true"), "");
    assert!(jreg::app::App::build(public, store()).await.is_ok());
}

#[tokio::test]
async fn pages_say_which_registry_is_mirrored_and_what_it_allows() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    upstream.set_header("ratelimit-limit", "100;w=21600");
    upstream.set_header("ratelimit-remaining", "37;w=21600");
    let server = mirror(&upstream, StoreKind::Memory, "").await;
    let client = server.client();
    pull(&client, "/v2/docker.io/library/app", "", "v1", &image).await;
    let page = async |target: &str| {
        let response = get(&client, target).await;
        assert_eq!(response.status, 200, "{target}: {response}");
        String::from_utf8(response.body.to_vec()).unwrap()
    };
    let activity = page("/ui/-/activity").await;
    assert!(activity.contains("37 of 100 pulls left"), "{activity}");
    assert!(activity.contains(&upstream.url().to_string()), "{activity}");
    for target in ["/ui/", "/ui/docker.io/library/app"] {
        let shown = page(target).await;
        assert!(shown.contains("mirror of <bdi>docker.io</bdi>"), "{target}: {shown}");
    }
}
