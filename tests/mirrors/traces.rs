//! A trace joins the client, the registry, its bucket, and a mirrored registry.

use std::sync::Arc;

use jreg_storage::{S3Credentials, S3Options, S3Store, Store};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::upstream::ScriptedUpstream;
use jreg_testkit::{Request, ServerSpec, StoreKind, TestServer};

use super::{add_image, settings};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN_OF_CLIENT: &str = "00f067aa0bc902b7";

/// A bucket as `jreg serve` opens it.
fn bucket(server: &S3Server) -> Arc<dyn Store> {
    let options = S3Options::new(server.storage_url().parse().unwrap());
    let credentials = S3Credentials::Static {
        key_id: server.access_key().to_owned(),
        secret: server.secret_key().to_owned(),
        token: None,
    };
    let trace_parent: Option<fn() -> Option<String>> = Some(jreg_telemetry::trace::parent_header);
    Arc::new(S3Store::open(S3Options { credentials, trace_parent, ..options }).unwrap())
}

/// The span that a header names as the parent, which must be of the trace.
fn parent(header: &str) -> &str {
    let parts: Vec<&str> = header.split('-').collect();
    let ["00", TRACE, span, "01"] = parts[..] else { panic!("{header}") };
    assert_ne!(span, SPAN_OF_CLIENT);
    span
}

#[tokio::test]
async fn requests_to_the_bucket_and_to_a_mirrored_registry_belong_to_the_trace_of_the_client() {
    let (upstream, server) =
        (ScriptedUpstream::start().await, S3Server::start(S3Spec::default()).await);
    let image = add_image(&upstream, 1);
    let collector = "trace-collector = \"http://127.0.0.1:9\"";
    let spec = ServerSpec { settings: settings(&upstream, "", collector), ..ServerSpec::default() };
    let registry = TestServer::start(spec.store(StoreKind::Given(bucket(&server)))).await;
    server.take_requests();
    let traced = |target: String| {
        Request::new("GET", target)
            .header("traceparent", format!("00-{TRACE}-{SPAN_OF_CLIENT}-01"))
            .header("Connection", "close")
    };
    let client = registry.client();
    for target in
        ["manifests/v1".to_owned(), format!("blobs/{}", image.blobs.last().unwrap().digest())]
    {
        let request = traced(format!("/v2/docker.io/library/app/{target}"));
        assert_eq!(client.send_unchecked(&request).await.unwrap().status, 200);
        let asked = upstream.requests();
        let asked: Vec<_> = asked.iter().filter_map(|it| it.header("traceparent")).collect();
        let stored = server.take_requests();
        let stored: Vec<_> = stored.iter().filter_map(|it| it.header("traceparent")).collect();
        assert!(!asked.is_empty() && !stored.is_empty(), "{target}: {asked:?} {stored:?}");
        let span = parent(asked[0]);
        assert!(asked.iter().all(|it| parent(it) == span), "{asked:?}");
        // What the request before has left to do goes on.
        assert!(stored.iter().any(|it| parent(it) == span), "{stored:?}");
        upstream.clear_requests();
    }
    // A request that is not sampled says so.
    let request = Request::new("GET", "/v2/app/tags/list").header("Connection", "close");
    client.send_unchecked(&request).await.unwrap();
    let stored = server.take_requests();
    let listing = stored.iter().find(|it| it.query.contains("repositories%2Fapp")).unwrap();
    assert!(listing.header("traceparent").is_some_and(|header| header.ends_with("-00")));
    registry.stop().await;
}
