//! Store faults as a client sees them: always a 5xx without internal details, never absence, never
//! a truncated response that looks complete.

use std::sync::Arc;

use jreg_storage::testing::{Fault, FaultyStore};
use jreg_storage::{ErrorKind, MemoryStore};
use jreg_testkit::{
    Image, Request, Rng, Scenario, ServerSpec, StoreKind, TestServer, push_blob, push_image, sha256,
};

use crate::faults::block_on;

async fn server() -> (TestServer, Arc<FaultyStore>) {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let store = StoreKind::Given(faulty.clone());
    // No caches, so that each request needs the store.
    let spec = ServerSpec::with(|settings| settings.cache_bytes = 0).store(store);
    (TestServer::start(spec).await, faulty)
}

fn requests(image: &Image) -> Vec<Request> {
    let v2 = |rest: &str| format!("/v2/contract/faults/{rest}");
    let layer = &image.blobs[1].bytes;
    let digest = image.manifest.digest();
    vec![
        Request::new("HEAD", v2(&format!("blobs/{}", sha256(layer)))),
        Request::new("GET", v2(&format!("blobs/{}", sha256(layer)))),
        Request::new("HEAD", v2("manifests/v1")),
        Request::new("GET", v2("manifests/v1")),
        Request::new("GET", v2(&format!("manifests/{digest}"))),
        Request::new("GET", v2("tags/list")),
        Request::new("GET", v2(&format!("referrers/{digest}"))),
        Request::new("GET", "/v2/_catalog"),
        Request::new("GET", v2("_jreg/tags/v1/history")),
        Request::new("GET", v2("_oci/tag-history/v1")),
        Request::new("GET", v2("_jreg/deleted")),
        Request::new("POST", v2("_jreg/tags/v2/restore"))
            .header("Content-Type", "application/json")
            .body(format!(r#"{{"digest":"{digest}"}}"#)),
        Request::new("POST", v2(&format!("_jreg/deleted/{digest}/restore")))
            .header("Content-Type", "application/json")
            .body("{}"),
        Request::new("POST", v2(&format!("blobs/uploads/?digest={}", sha256("x")))).body("x"),
        Request::new("POST", v2(&format!("blobs/uploads/?mount={}&from=elsewhere", sha256("x"))))
            .body(""),
        Request::new("PUT", v2("manifests/v2"))
            .header("Content-Type", &image.manifest.media_type)
            .body(image.manifest.bytes.clone()),
        Request::new("DELETE", v2("manifests/v1")),
        Request::new("DELETE", v2(&format!("manifests/{digest}"))),
        Request::new("DELETE", v2(&format!("blobs/{}", sha256(layer)))),
    ]
}

#[test]
fn c02_store_errors_are_5xx_and_never_404() {
    block_on(async {
        let (server, faulty) = server().await;
        let image = Image::plain(1);
        Scenario::new("faults", server.client()).run(push_image("v1", &image)).await;
        for kind in [ErrorKind::Unavailable, ErrorKind::Refused, ErrorKind::Throttled] {
            for request in requests(&image) {
                faulty.inject(Fault::fail(kind).from_then_on());
                let outcome = server.client().send(request.clone()).await;
                faulty.heal();
                assert!(outcome.status >= 500, "{kind:?}\n{request}{outcome}");
            }
        }
        assert_eq!(server.client().get("/v2/contract/faults/manifests/v1").await.status, 200);
        server.stop().await;
    });
}

#[test]
fn fixed_throttling_is_503_with_retry_after() {
    block_on(async {
        let (server, faulty) = server().await;
        let image = Image::plain(1);
        Scenario::new("faults", server.client()).run(push_image("v1", &image)).await;
        for request in requests(&image) {
            faulty.inject(Fault::fail(ErrorKind::Throttled).from_then_on());
            let outcome = server.client().send(request.clone()).await;
            faulty.heal();
            assert!([429, 503].contains(&outcome.status), "{request}{outcome}");
            assert!(outcome.header("Retry-After").is_some(), "{request}{outcome}");
        }
        server.stop().await;
    });
}

/// The readiness result may be cached briefly.
async fn becomes_ready(server: &TestServer) -> bool {
    for _ in 0..500 {
        if server.client().get("/readyz").await.status == 200 {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    false
}

#[test]
fn readiness_fails_while_the_store_does_not_respond() {
    block_on(async {
        let (server, faulty) = server().await;
        faulty.inject(Fault::fail(ErrorKind::Unavailable).from_then_on());
        assert_eq!(server.client().get("/readyz").await.status, 503);
        assert_eq!(server.client().get("/livez").await.status, 200);
        faulty.heal();
        assert!(becomes_ready(&server).await, "it does not notice that the store answers again");
        server.stop().await;
    });
}

#[test]
fn stream_that_breaks_is_seen_to_break() {
    block_on(async {
        let (server, faulty) = server().await;
        let bytes = Rng::new(1).bytes(1_000_000);
        Scenario::new("faults", server.client()).run(vec![push_blob(bytes.clone())]).await;
        faulty.inject(Fault::cut_stream(500_000, ErrorKind::Unavailable));
        let pull = Request::new("GET", format!("/v2/contract/faults/blobs/{}", sha256(&bytes)));
        let outcome = server.client().send_unchecked(&pull).await;
        assert!(outcome.is_err(), "a cut stream looked whole: {outcome:?}");
        assert_eq!(server.client().send(pull).await.body, bytes);
        server.stop().await;
    });
}
