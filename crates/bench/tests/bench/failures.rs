//! What a registry may do wrong: it is counted under its name, and nothing hangs.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jreg_bench::{BenchError, WorkloadResult, measure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{block_on, one_by_one, plan};
use crate::fake::{FakeRegistry, FakeRequest, response, response_with};

/// What came of a workload whose blob GETs get these responses, after so many good ones.
async fn blob_gets(
    good: usize,
    bad: impl Fn(&FakeRequest) -> crate::fake::FakeResponse + Send + Sync + 'static,
    verify: bool,
) -> WorkloadResult {
    let seen = AtomicUsize::new(0);
    let fake = FakeRegistry::misbehaving(move |asked| {
        let get = asked.method == http::Method::GET && asked.target.contains("/blobs/");
        (get && seen.fetch_add(1, Ordering::Relaxed) >= good).then(|| bad(asked))
    })
    .await;
    let mut run = one_by_one(&fake.url(), "blob-get-4k", |plan| plan.verify = verify).await;
    run.results.remove(0)
}

fn failed(measured: &WorkloadResult) -> Vec<(&str, u64)> {
    measured.errors.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

#[test]
fn errors_are_counted_by_status() {
    block_on(async {
        let measured = blob_gets(3, |_| response(500, "{}"), false).await;
        assert_eq!(failed(&measured), [("status 500", 2)]);
        assert_eq!(measured.operations, 2, "what failed is no operation that was done");
    });
}

#[test]
fn a_workload_that_fails_at_once_is_not_measured() {
    block_on(async {
        let measured = blob_gets(0, |_| response(503, ""), false).await;
        assert_eq!((failed(&measured), measured.operations), (vec![("status 503", 1)], 0));
    });
}

#[test]
fn a_body_of_another_length_is_an_error() {
    block_on(async {
        let measured = blob_gets(1, |_| response(200, vec![0; 4095]), false).await;
        assert_eq!(failed(&measured), [("length", 4)]);
    });
}

#[test]
fn other_bytes_are_an_error_in_the_first_operation_and_where_all_is_verified() {
    block_on(async {
        let other = |_: &FakeRequest| response(200, vec![0; 4096]);
        assert_eq!(failed(&blob_gets(0, other, false).await), [("digest", 1)]);
        assert_eq!(failed(&blob_gets(1, other, true).await), [("digest", 4)]);
        assert_eq!(failed(&blob_gets(1, other, false).await), []);
    });
}

#[test]
fn lists_are_checked() {
    block_on(async {
        let fake = FakeRegistry::misbehaving(|asked| {
            let list =
                asked.target.contains("/tags/list?") || asked.target.contains("/v2/_catalog?");
            list.then(|| response(200, r#"{"tags":["x"],"repositories":null}"#))
        })
        .await;
        let run = one_by_one(&fake.url(), "tag-page", |_| {}).await;
        assert_eq!(failed(&run.results[0]), [("list", 1)]);
    });
}

#[test]
fn a_registry_that_knows_no_pages_is_not_measured_by_them() {
    block_on(async {
        let fake = FakeRegistry::misbehaving(|asked| {
            let all: Vec<_> = (0..130).map(|number| format!("t{number:07}")).collect();
            let list = serde_json::json!({"name": "x", "tags": all}).to_string();
            asked.target.contains("/tags/list?").then(|| response(200, list.clone()))
        })
        .await;
        let run = one_by_one(&fake.url(), "tag-page", |_| {}).await;
        assert_eq!(run.results[0].unsupported.as_deref(), Some("no pages"));
        assert_eq!(failed(&run.results[0]), []);
    });
}

#[test]
fn what_is_optional_may_be_absent() {
    block_on(async {
        let fake = FakeRegistry::start().await;
        let run = one_by_one(&fake.url(), "catalog,referrers,blob-head", |_| {}).await;
        let unsupported = |n: usize| run.results[n].unsupported.as_deref();
        assert_eq!((unsupported(0), unsupported(1)), (Some("status 404"), Some("status 404")));
        assert_eq!((unsupported(2), run.results[2].operations), (None, 4));
        assert!(run.results.iter().all(|measured| measured.errors.is_empty()));
    });
}

/// A server that responds to some requests, and then sends this and closes.
async fn raw(good: usize, bad: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut seen = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                seen += 1;
                let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                let found = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                let says = match seen {
                    1 => found,
                    _ if seen <= good => missing,
                    _ if bad == "hang" => {
                        std::future::pending::<()>().await;
                        ""
                    }
                    _ => bad,
                };
                stream.write_all(says.as_bytes()).await.unwrap();
                if seen > good {
                    // What was not read yet makes it a reset.
                    stream.set_zero_linger().unwrap();
                    break;
                }
            }
        }
    });
    url
}

#[test]
fn a_connection_that_was_closed_between_requests_is_made_again() {
    block_on(async {
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let run = one_by_one(&raw(1, missing).await, "blob-head-missing", |_| {}).await;
        let measured = &run.results[0];
        assert_eq!((measured.operations, measured.errors.len()), (4, 0));
        // Also the first, on the connection of the operation that was checked.
        assert_eq!((measured.requests, measured.reconnects), (4, 4));
    });
}

#[test]
fn broken_and_malformed_responses_are_counted() {
    block_on(async {
        for (bad, name) in [
            ("", "broken"),
            ("HTTP/1.1 404 Not Fo", "broken"),
            ("SSH-2.0-OpenSSH_9\r\n\r\n", "protocol"),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: many\r\n\r\n", "protocol"),
        ] {
            // GET /v2/, the one that is checked, two that are counted.
            let run = one_by_one(&raw(4, bad).await, "blob-head-missing", |_| {}).await;
            assert_eq!(failed(&run.results[0]), [(name, 2)], "{bad:?}");
            assert_eq!(run.results[0].operations, 2);
        }
    });
}

#[test]
fn a_server_that_hangs_is_given_up() {
    block_on(async {
        let run = one_by_one(&raw(2, "hang").await, "blob-head-missing", |plan| {
            plan.timeout = Duration::from_millis(50);
        })
        .await;
        assert_eq!(failed(&run.results[0]), [("timeout", 4)]);
    });
}

#[test]
fn an_unreachable_server_is_not_retried_until_the_end() {
    block_on(async {
        let measured = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let serving = tokio::spawn(async move {
                // GET /v2/ and the operation that is checked.
                let (mut stream, _) = listener.accept().await.unwrap();
                for says in ["200 OK", "404 Not Found"] {
                    let _ = stream.read(&mut [0; 4096]).await.unwrap();
                    let says = format!("HTTP/1.1 {says}\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(says.as_bytes()).await.unwrap();
                }
            });
            let run = one_by_one(&url, "blob-head-missing", |plan| {
                plan.amount = jreg_bench::PlanAmount::Duration(Duration::from_secs(3600));
            })
            .await;
            serving.await.unwrap();
            run
        };
        let [(name, count)] = failed(&measured.results[0])[..] else { panic!("{measured:?}") };
        assert!(["connect", "broken"].contains(&name) && count <= 20, "{measured:?}");
    });
}

#[test]
fn without_a_registry_there_is_nothing_to_measure() {
    block_on(async {
        let closed =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let error = measure(plan(&format!("http://{closed}")), &mut |_| {}).await.unwrap_err();
        assert!(matches!(error, BenchError::Unreachable(_)), "{error:?}");
        let fake = FakeRegistry::misbehaving(|_| Some(response(404, ""))).await;
        let error = measure(plan(&fake.url()), &mut |_| {}).await.unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "status 404");
    });
}

#[test]
fn redirects_of_downloads_are_followed_so_often() {
    block_on(async {
        let store = FakeRegistry::misbehaving(|asked| {
            assert!(
                !asked.headers.contains_key("authorization"),
                "a token goes to its registry only"
            );
            asked.target.starts_with("/store/").then(|| response(200, vec![0; 4096]))
        })
        .await;
        let away = store.url();
        let measured = blob_gets(
            1,
            move |_| response_with(307, "location", &format!("{away}/store/x")),
            false,
        )
        .await;
        assert_eq!((failed(&measured), measured.operations), (vec![], 4));
        let measured =
            blob_gets(1, |asked| response_with(307, "location", &asked.target), false).await;
        assert_eq!(failed(&measured), [("status 307", 4)]);
    });
}
