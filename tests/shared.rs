//! Behaviour on a shared store: several servers on one store, listings with small pages, and many
//! concurrent clients on the same content.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use jreg_storage::{MemoryStore, PartRules, Store};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{
    Client, Image, Manifest, Request, Response, Rng, Scenario, ServerSpec, SmallPagesStore,
    StoreKind, TestServer, get, index_of, media, push_blob, push_image, push_manifest, sha256,
};
use serde_json::{Value, json};

/// A memory store with the properties of S3.
fn shared() -> Arc<dyn Store> {
    let rules = PartRules { part_bytes: 16 * 1024, uniform: true, parts_max: 10_000 };
    Arc::new(MemoryStore::builder().remote().part_rules(rules).build())
}

async fn server(store: &Arc<dyn Store>) -> TestServer {
    TestServer::start(ServerSpec::default().store(StoreKind::Given(store.clone()))).await
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

async fn two_servers(test: impl AsyncFn(Client, Client)) {
    let store = shared();
    let bucket = S3Server::start(S3Spec::default()).await;
    for (one, other) in [(store.clone(), store), (bucket.store(), bucket.store())] {
        let (one, other) = (server(&one).await, server(&other).await);
        test(one.client(), other.client()).await;
        one.stop().await;
        other.stop().await;
    }
}

fn put(target: &str, manifest: &Manifest) -> Request {
    Request::new("PUT", target)
        .header("Content-Type", &manifest.media_type)
        .body(manifest.bytes.clone())
}

/// An upload may continue at any instance: its state is in the store.
#[test]
fn fixed_upload_goes_on_at_another_server() {
    block_on(two_servers(async |one, other| {
        let bytes = Rng::new(1).bytes(50_000);
        let begun = one.send(Request::new("POST", "/v2/a/blobs/uploads/").body("")).await;
        let upload = begun.header("Location").unwrap();
        let mut sent = 0;
        for (client, len) in
            [(&other, 10), (&one, 20_000), (&other, 0), (&other, 29_000), (&one, 990)]
        {
            let chunk = bytes.slice(sent..sent + len);
            let response = client.send(Request::new("PATCH", upload).chunked([chunk])).await;
            sent += len;
            assert_eq!(
                (response.status, response.header("Range")),
                (202, Some(&*format!("0-{}", sent - 1)))
            );
        }
        let status = other.get(upload).await;
        assert_eq!((status.status, status.header("Range")), (204, Some("0-49999")));
        let close = Request::new("PUT", format!("{upload}?digest={}", sha256(&bytes))).body("");
        assert_eq!(other.send(close).await.status, 201);
        let pulled = one.get(&format!("/v2/a/blobs/{}", sha256(&bytes))).await;
        assert!(pulled.body == bytes, "other bytes came back");
    }));
}

#[test]
fn cancelled_upload_is_cancelled_everywhere() {
    block_on(two_servers(async |one, other| {
        let begun = one.send(Request::new("POST", "/v2/a/blobs/uploads/").body("")).await;
        let upload = begun.header("Location").unwrap();
        assert_eq!(one.send(Request::new("PATCH", upload).body("hello")).await.status, 202);
        assert_eq!(other.delete(upload).await.status, 204);
        assert_eq!(one.send(Request::new("PATCH", upload).body("x")).await.status, 404);
        let close = Request::new("PUT", format!("{upload}?digest={}", sha256("hello"))).body("");
        assert_eq!(one.send(close).await.status, 404);
    }));
}

/// Tags are always read from the store, so every server sees a push at once.
#[test]
fn push_shows_at_once_everywhere() {
    block_on(two_servers(async |one, other| {
        for seed in 1..4 {
            let image = Image::plain(seed);
            Scenario::new("seen", one.clone()).run(push_image("v1", &image)).await;
            let seen = other.get("/v2/contract/seen/manifests/v1").await;
            assert_eq!(seen.body, image.manifest.bytes);
        }
        Scenario::new("seen", one)
            .run(vec![jreg_testkit::delete("/v2/{repo}/manifests/v1").is(202)])
            .await;
        assert_eq!(other.get("/v2/contract/seen/manifests/v1").await.status, 404);
    }));
}

/// Listings are complete, and every tag of a deleted manifest is deleted, however small the store's
/// pages are.
#[test]
fn fixed_page_that_the_store_cuts_is_not_the_last() {
    block_on(async {
        let store: Arc<dyn Store> = Arc::new(SmallPagesStore::new(shared(), 2));
        let server = server(&store).await;
        let client = server.client();
        let subject = Image::plain(1);
        let mut scenario = Scenario::new("a", client.clone());
        scenario.run(push_image("t0", &subject)).await;
        for number in 1..7 {
            scenario.run(vec![push_manifest(&format!("t{number}"), &subject.manifest)]).await;
            let referrer = Image::referrer(number, &subject.manifest, "application/x");
            scenario.run(push_image(&referrer.manifest.digest(), &referrer)).await;
            Scenario::new(&format!("b{number}"), client.clone())
                .run(vec![push_manifest("v1", &index_of(&[]))])
                .await;
        }
        let digest = subject.manifest.digest();
        let tags: Vec<_> = (0..7).map(|number| format!("t{number}")).collect();
        scenario
            .run(vec![
                get("/v2/{repo}/tags/list").is(200).json("/tags", tags).lacks("Link"),
                get("/v2/{repo}/tags/list?n=3").is(200).json("/tags", json!(["t0", "t1", "t2"])),
            ])
            .await;
        let listed = client.get("/v2/_catalog").await.json();
        assert_eq!(listed["repositories"].as_array().map(Vec::len), Some(7), "{listed}");
        let referrers = client.get(&format!("/v2/contract/a/referrers/{digest}")).await.json();
        assert_eq!(referrers["manifests"].as_array().map(Vec::len), Some(6), "{referrers}");
        scenario
            .run(vec![
                jreg_testkit::delete(&format!("/v2/{{repo}}/manifests/{digest}")).is(202),
                get("/v2/{repo}/tags/list").is(200).json("/tags", json!([])),
            ])
            .await;
        server.stop().await;
    });
}

/// Sends requests concurrently, and returns their sorted status codes.
async fn statuses(client: &Client, requests: impl IntoIterator<Item = Request>) -> Vec<u16> {
    let responses: Vec<Response> = join_all(requests.into_iter().map(|r| client.send(r))).await;
    let mut statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
    statuses.sort_unstable();
    statuses
}

fn eight_manifests() -> Vec<Manifest> {
    let of =
        |n: u64| json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [], "n": n});
    (0..8).map(|n: u64| Manifest::compact(media::INDEX, &of(n))).collect()
}

async fn on_each_store(test: impl AsyncFn(Client)) {
    let folder = TestServer::start(ServerSpec::default().store(StoreKind::Folder)).await;
    let bucket = TestServer::start(ServerSpec::default().store(StoreKind::Bucket)).await;
    for server in [folder, bucket, server(&shared()).await] {
        test(server.client()).await;
        server.stop().await;
    }
}

#[test]
fn fixed_pushes_to_one_tag_at_the_same_time_all_succeed() {
    block_on(on_each_store(async |client| {
        let target = "/v2/a/manifests/v1";
        let pushes = eight_manifests().into_iter().map(|manifest| put(target, &manifest));
        assert_eq!(statuses(&client, pushes).await, [201; 8]);
        let seen = client.get(target).await;
        assert!(eight_manifests().iter().any(|manifest| manifest.bytes == seen.body));
    }));
}

#[test]
fn c23_promotions_at_the_same_time_have_one_winner() {
    block_on(on_each_store(async |client| {
        let target = "/v2/a/manifests/v1";
        let creates =
            eight_manifests().into_iter().map(|m| put(target, &m).header("If-None-Match", "*"));
        assert_eq!(statuses(&client, creates).await, [201, 412, 412, 412, 412, 412, 412, 412]);
        let etag = client.get(target).await.header("ETag").unwrap().to_owned();
        let base = index_of(&[]);
        let swaps = (0..8).map(|n| {
            let swap: Value = json!({"schemaVersion": 2, "mediaType": base.media_type, "manifests": [], "swap": n});
            put(target, &Manifest::compact(media::INDEX, &swap)).header("If-Match", &*etag)
        });
        assert_eq!(statuses(&client, swaps).await, [201, 412, 412, 412, 412, 412, 412, 412]);
    }));
}

#[test]
fn one_blob_pushed_by_many_at_the_same_time() {
    block_on(on_each_store(async |client| {
        let bytes: Bytes = Rng::new(9).bytes(40_000);
        let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
        let pushes = (0..8).map(|_| Request::new("POST", &*target).body(bytes.clone()));
        assert_eq!(statuses(&client, pushes).await, [201; 8]);
        let pulled = client.get(&format!("/v2/a/blobs/{}", sha256(&bytes))).await;
        assert!(pulled.body == bytes, "other bytes came back");
        Scenario::new("again", client).run(vec![push_blob(bytes)]).await;
    }));
}

#[test]
fn deletes_at_the_same_time_as_pushes_leave_no_tag_without_a_manifest() {
    block_on(on_each_store(async |client| {
        let manifest = index_of(&[]);
        for _ in 0..10 {
            let pushes = (0..4).map(|n| put(&format!("/v2/a/manifests/t{n}"), &manifest));
            let target = format!("/v2/a/manifests/{}", manifest.digest());
            let deletes = (0..2).map(|_| Request::new("DELETE", &*target));
            let found = statuses(&client, pushes.chain(deletes)).await;
            assert!(found.iter().all(|status| [201, 202, 404].contains(status)), "{found:?}");
            let tags = client.get("/v2/a/tags/list").await.json();
            for tag in tags["tags"].as_array().into_iter().flatten() {
                let tag = tag.as_str().unwrap();
                let seen = client.get(&format!("/v2/a/manifests/{tag}")).await;
                assert_eq!(seen.status, 200, "{tag} is listed and has no manifest");
            }
        }
    }));
}
