//! One client gets so much, and the others theirs.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::guarded::{Registry, basic, bearer, send};
use crate::config::Settings;

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const UPLOADS: &str = "/v2/open/app/blobs/uploads/";
const SECOND: Duration = Duration::from_secs(1);

fn alice() -> String {
    basic("alice", "secret")
}

async fn with(change: impl FnOnce(&mut Settings)) -> Registry {
    let registry = Registry::with(None, |settings| {
        settings.anonymous_pull = true;
        settings.rate_limit_burst = SECOND;
        change(settings);
    });
    registry.await
}

async fn status(registry: &Registry, from: &str, target: &str, header: Option<&str>) -> u16 {
    registry.send_from(from, target, header).await.status.as_u16()
}

#[tokio::test]
async fn an_identity_has_its_rate_wherever_it_comes_from() {
    let registry = with(|settings| settings.rate_limit_requests = 2).await;
    let alice = Some(alice());
    for from in ["10.0.0.1", "10.0.0.2"] {
        assert_eq!(status(&registry, from, MANIFEST, alice.as_deref()).await, 200);
    }
    let answer = registry.send_from("10.0.0.3", MANIFEST, alice.as_deref()).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    let denied = "/v2/closed/none/manifests/latest";
    assert_eq!(status(&registry, "10.0.0.3", denied, alice.as_deref()).await, 429);
    let token = "/token?scope=repository:open/app:pull";
    assert_eq!(status(&registry, "10.0.0.3", token, alice.as_deref()).await, 429);
    let robot = bearer(&registry.robot);
    assert_eq!(status(&registry, "10.0.0.3", MANIFEST, Some(&robot)).await, 200);
    for route in crate::http::SERVICE_ROUTES.iter().filter(|route| route.path != "/token") {
        assert_eq!(status(&registry, "10.0.0.3", route.path, None).await, 200, "{}", route.path);
    }
    registry.clock.advance(SECOND / 2);
    assert_eq!(status(&registry, "10.0.0.3", MANIFEST, alice.as_deref()).await, 200);
    assert_eq!(status(&registry, "10.0.0.3", MANIFEST, alice.as_deref()).await, 429);
    let metrics = registry.send("GET", "/metrics", None).await.text();
    assert!(metrics.contains(r#"jreg_limited_requests_total{kind="identity"} 4"#), "{metrics}");
}

#[tokio::test]
async fn nobody_in_particular_counts_by_address() {
    let registry = with(|settings| settings.rate_limit_requests = 1).await;
    for (from, due) in [
        ("10.0.0.1", 200),
        ("10.0.0.1", 429),
        ("10.0.0.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 200),
    ] {
        assert_eq!(status(&registry, from, MANIFEST, None).await, due, "{from}");
    }
}

#[tokio::test]
async fn an_address_has_its_rate_whoever_asks_and_whatever_is_answered() {
    let registry = with(|settings| settings.rate_limit_address_requests = 4).await;
    let wrong = basic("alice", "wrong");
    let from = "10.0.0.1";
    assert_eq!(status(&registry, from, MANIFEST, Some(&wrong)).await, 401);
    assert_eq!(status(&registry, from, "/v2/a/nothing", None).await, 404);
    assert_eq!(status(&registry, from, "/token?service=other", None).await, 400);
    assert_eq!(status(&registry, from, MANIFEST, Some(&alice())).await, 200);
    assert_eq!(status(&registry, from, MANIFEST, Some(&alice())).await, 429);
    assert_eq!(status(&registry, from, "/token", Some(&alice())).await, 429);
    assert_eq!(status(&registry, "10.0.0.2", MANIFEST, Some(&alice())).await, 200);
}

/// Sends a chunk that ends when the sender is dropped.
async fn begin_chunk(
    registry: &Registry,
    header: &str,
) -> (mpsc::Sender<Bytes>, impl Future<Output = u16>) {
    let started = registry.send("POST", UPLOADS, Some(header)).await;
    let location = started.headers["location"].to_str().unwrap().to_owned();
    let (sender, receiver) = mpsc::channel(1);
    let frames = ReceiverStream::new(receiver).map(Ok::<Bytes, std::io::Error>);
    let request = Request::builder().method("PATCH").uri(location).header("Host", "test");
    let request = request.header("Authorization", header).body(Body::from_stream(frames)).unwrap();
    (sender, async move { send(&registry.apps[0], request).await.status.as_u16() })
}

#[tokio::test]
async fn an_identity_has_so_many_uploads_at_a_time() {
    let registry = with(|settings| settings.rate_limit_uploads = 1).await;
    let (alice, robot) = (alice(), bearer(&registry.robot));
    let (first, first_answer) = begin_chunk(&registry, &alice).await;
    let (second, second_answer) = begin_chunk(&registry, &alice).await;
    let (third, third_answer) = begin_chunk(&registry, &robot).await;
    // Once it takes bytes, it counts.
    let go_on = async {
        first.send(Bytes::from_static(b"x")).await.unwrap();
        first.send(Bytes::from_static(b"x")).await.unwrap();
        first.send(Bytes::from_static(b"x")).await.unwrap();
        drop(second);
        assert_eq!(second_answer.await, 429);
        drop(third);
        assert_eq!(third_answer.await, 202, "another has its own");
        drop(first);
    };
    let (first_status, ()) = tokio::join!(first_answer, go_on);
    assert_eq!(first_status, 202);
    let (last, last_answer) = begin_chunk(&registry, &alice).await;
    drop(last);
    assert_eq!(last_answer.await, 202, "what is over does not count");
}
