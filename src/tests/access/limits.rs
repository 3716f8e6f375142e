//! Rate and size limits per client.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use jreg_config::Settings;
use jreg_net::server::{Body, Peer};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::guarded::{Registry, basic, bearer, send};

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
    let response = registry.send_from("10.0.0.3", MANIFEST, alice.as_deref()).await;
    assert_eq!(
        (response.status.as_u16(), &response.headers["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    assert_eq!(response.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    let denied = "/v2/closed/none/manifests/latest";
    assert_eq!(status(&registry, "10.0.0.3", denied, alice.as_deref()).await, 429);
    let token = "/token?scope=repository:open/app:pull";
    assert_eq!(status(&registry, "10.0.0.3", token, alice.as_deref()).await, 429);
    let access_token = bearer(&registry.access_token);
    assert_eq!(status(&registry, "10.0.0.3", MANIFEST, Some(&access_token)).await, 200);
    for route in jreg_http::SERVICE_ROUTES.iter().filter(|route| route.path != "/token") {
        assert_eq!(status(&registry, "10.0.0.3", route.path, None).await, 200, "{}", route.path);
    }
    registry.clock.advance(SECOND / 2);
    assert_eq!(status(&registry, "10.0.0.3", MANIFEST, alice.as_deref()).await, 200);
    assert_eq!(status(&registry, "10.0.0.3", MANIFEST, alice.as_deref()).await, 429);
    let metrics = registry.send("GET", "/metrics", None).await.text();
    assert!(metrics.contains(r#"jreg_limited_requests_total{kind="identity"} 4"#), "{metrics}");
}

#[tokio::test]
async fn anonymous_clients_count_by_address() {
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
async fn an_address_has_its_rate_for_every_identity_and_every_status() {
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
    let (alice, access_token) = (alice(), bearer(&registry.access_token));
    let (first, first_response) = begin_chunk(&registry, &alice).await;
    let (second, second_response) = begin_chunk(&registry, &alice).await;
    let (third, third_response) = begin_chunk(&registry, &access_token).await;
    // Once it takes bytes, it counts.
    let go_on = async {
        first.send(Bytes::from_static(b"x")).await.unwrap();
        first.send(Bytes::from_static(b"x")).await.unwrap();
        first.send(Bytes::from_static(b"x")).await.unwrap();
        drop(second);
        assert_eq!(second_response.await, 429);
        drop(third);
        assert_eq!(third_response.await, 202, "another has its own");
        drop(first);
    };
    let (first_status, ()) = tokio::join!(first_response, go_on);
    assert_eq!(first_status, 202);
    let (last, last_response) = begin_chunk(&registry, &alice).await;
    drop(last);
    assert_eq!(last_response.await, 202, "what is over does not count");
}

/// One client could take every slot of `uploads-max`, without a limit of its own.
#[tokio::test]
async fn one_client_has_a_share_of_the_uploads() {
    let registry = with(|settings| settings.uploads_max = 66).await;
    let (alice, access_token) = (alice(), bearer(&registry.access_token));
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(begin_chunk(&registry, &alice).await);
    }
    let (senders, responses): (Vec<_>, Vec<_>) = open.into_iter().unzip();
    let (_waits, more) = begin_chunk(&registry, &alice).await;
    let (other, others) = begin_chunk(&registry, &access_token).await;
    let go_on = async {
        for sender in &senders {
            // Once it takes bytes, it counts.
            for _ in 0..3 {
                sender.send(Bytes::from_static(b"x")).await.unwrap();
            }
        }
        assert_eq!(more.await, 429);
        drop(other);
        assert_eq!(others.await, 202, "another has slots");
        drop(senders);
    };
    let (statuses, ()) = tokio::join!(futures::future::join_all(responses), go_on);
    assert!(statuses.iter().all(|status| *status == 202), "{statuses:?}");
}

/// Sends a GET from an address, without reading the response body.
async fn begin_pull(registry: &Registry, from: [u8; 4], header: Option<&str>) -> Response<Body> {
    let request = Request::builder().uri(MANIFEST).header("Host", "test");
    let request = request.extension(Peer((from, 1234).into()));
    let request = match header {
        Some(header) => request.header("Authorization", header),
        None => request,
    };
    registry.apps[0].api().respond(request.body(Body::empty()).unwrap()).await
}

const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

#[tokio::test]
async fn an_identity_has_so_many_bytes_in_flight() {
    let registry = with(|settings| settings.rate_limit_bytes_in_flight = 100).await;
    let (alice, access_token) = (alice(), bearer(&registry.access_token));
    let first = begin_pull(&registry, HERE, Some(&alice)).await;
    assert_eq!(first.status(), 200, "one is always possible");
    let response = registry.send_from("10.0.0.2", MANIFEST, Some(&alice)).await;
    assert_eq!(
        (response.status.as_u16(), &response.headers["retry-after"]),
        (429, &"5".parse().unwrap())
    );
    assert_eq!(response.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    let head = registry.send("HEAD", MANIFEST, Some(&alice)).await;
    assert_eq!(head.status, 200, "the response to HEAD has no body");
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&access_token)).await, 200);
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, None).await, 200, "anonymous");
    for route in jreg_http::SERVICE_ROUTES.iter().filter(|route| route.path != "/token") {
        assert_eq!(status(&registry, "10.0.0.1", route.path, None).await, 200, "{}", route.path);
    }
    let whole = http_body_util::BodyExt::collect(first.into_body()).await.unwrap();
    assert!(whole.to_bytes().len() > 50);
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&alice)).await, 200);
    drop(begin_pull(&registry, HERE, Some(&alice)).await);
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&alice)).await, 200, "gone away");
    let metrics = registry.send("GET", "/metrics", None).await.text();
    let counted = r#"jreg_limited_requests_total{kind="identity_bytes"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn an_address_has_so_many_bytes_in_flight_for_every_identity() {
    let registry = with(|settings| settings.rate_limit_address_bytes_in_flight = 100).await;
    let (alice, access_token) = (alice(), bearer(&registry.access_token));
    let first = begin_pull(&registry, HERE, Some(&alice)).await;
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&access_token)).await, 429);
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, None).await, 429);
    assert_eq!(status(&registry, "10.0.0.2", MANIFEST, Some(&alice)).await, 200);
    drop(first);
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&access_token)).await, 200);
    let metrics = registry.send("GET", "/metrics", None).await.text();
    let counted = r#"jreg_limited_requests_total{kind="address_bytes"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn anonymous_clients_share_the_bytes_of_their_address() {
    let registry = with(|settings| settings.rate_limit_bytes_in_flight = 100).await;
    let first = begin_pull(&registry, HERE, None).await;
    assert_eq!(status(&registry, "10.0.0.1", MANIFEST, None).await, 429);
    let other = begin_pull(&registry, THERE, None).await;
    assert_eq!((first.status().as_u16(), other.status().as_u16()), (200, 200));
}

#[tokio::test]
async fn bytes_that_are_uploaded_count_as_they_come_and_until_they_are_stored() {
    let registry = with(|settings| settings.rate_limit_bytes_in_flight = 100).await;
    let (alice, access_token) = (alice(), bearer(&registry.access_token));
    let (upload, response) = begin_chunk(&registry, &alice).await;
    let go_on = async {
        for _ in 0..3 {
            upload.send(Bytes::from(vec![0; 40])).await.unwrap();
        }
        // At least two of them were accepted.
        assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&alice)).await, 429);
        assert_eq!(status(&registry, "10.0.0.1", MANIFEST, Some(&access_token)).await, 200);
        upload.send(Bytes::from(vec![0; 400])).await.unwrap();
        drop(upload);
    };
    let (first, ()) = tokio::join!(response, go_on);
    assert_eq!(first, 202, "what has begun is not cut off");
    let (first, second) = (vec![0; 90], vec![1; 20]);
    let push = |body: &[u8]| {
        let target = format!("{UPLOADS}?digest={}", super::guarded::hash_of(body));
        let request = Request::builder().method("POST").uri(target).header("Host", "test");
        request.header("Authorization", &alice).body(Body::from(body.to_vec())).unwrap()
    };
    let held = begin_pull(&registry, HERE, Some(&alice)).await;
    assert_eq!(send(&registry.apps[0], push(&first)).await.status, 429);
    drop(held);
    for body in [&first, &second] {
        assert_eq!(send(&registry.apps[0], push(body)).await.status, 201);
    }
}
