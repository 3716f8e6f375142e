//! Damaged content as a client sees it: a complete response has as many bytes as the blob.

use futures::StreamExt;
use jreg_storage::ByteRange;
use jreg_testkit::{Request, ServerSpec, StoreKind, TestServer};

use crate::damage::block_on;
use crate::damage::object::{Damage, Object};
use crate::damage::scenario::{Backend, DamageScenario, sha256};

#[test]
fn bytes_of_another_size_are_never_a_complete_response() {
    for (home, damage) in [Backend::Folder, Backend::Bucket]
        .into_iter()
        .flat_map(|home| Damage::ALL.map(|d| (home, d)))
    {
        block_on(async {
            let scenario = DamageScenario::new(home).await;
            let blob = Object::StreamedBytes;
            scenario.damage(blob, damage);
            let store = StoreKind::Given(scenario.store.clone());
            let server = TestServer::start(ServerSpec::default().store(store)).await;
            let (digest, right) = scenario.blob(blob);
            let target = format!("/v2/team/app/blobs/{digest}");
            let (whole, part) = (Request::new("GET", &target), Request::new("GET", &target));
            let part = part.header("Range", "bytes=200000-");
            let client = server.client();
            if damage.keeps_size() {
                // The client would reject it by the digest.
                let whole = client.send_unchecked(&whole.header("Connection", "close")).await;
                let whole = whole.unwrap();
                assert_eq!((whole.status, whole.body.len()), (200, right.len()));
                assert_ne!(sha256(&whole.body), digest);
            } else {
                for request in [whole, part] {
                    let response = client.send(request).await;
                    assert_eq!(response.status, 500, "{home:?} {damage:?}");
                }
            }
            server.stop().await;
        });
    }
}

#[test]
fn manifest_that_is_damaged_is_a_failure_and_not_absent() {
    for home in [Backend::Folder, Backend::Bucket] {
        for damage in [Damage::Cut, Damage::Emptied, Damage::Zeroed, Damage::Start, Damage::End] {
            block_on(async {
                let scenario = DamageScenario::new(home).await;
                scenario.damage(Object::Manifest, damage);
                let store = StoreKind::Given(scenario.store.clone());
                let server = TestServer::start(ServerSpec::default().store(store)).await;
                let response = server.client().get("/v2/team/app/manifests/v1").await;
                assert_eq!(response.status, 500, "{home:?} {damage:?}");
                server.stop().await;
            });
        }
    }
}

#[test]
fn bytes_that_are_cut_while_they_are_sent_end_with_a_failure() {
    block_on(async {
        let scenario = DamageScenario::new(Backend::Folder).await;
        let (digest, right) = scenario.blob(Object::StreamedBytes);
        let repository = scenario.registry.repository("team/app".parse().unwrap());
        let reader = repository.blob_open(&digest).await.unwrap();
        let range = ByteRange { start: 0, end: right.len() as u64 };
        let mut stream = reader.read(range).await.unwrap();
        let mut sent = stream.next().await.unwrap().unwrap().len();
        scenario.damage(Object::StreamedBytes, Damage::Cut);
        let failed = loop {
            match stream.next().await {
                Some(Ok(chunk)) => sent += chunk.len(),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(failed && sent < right.len());
    });
}
