//! Listings of servers that lie: what is wrong is an error and never taken for a page.

use jreg_storage::{ErrorKind, ListPage, ListRequest, PutMode, Result, Store};
use jreg_testkit::s3::{Listings, S3Server, S3Spec};

use super::support::{key, kind, options, store};

const KEYS: [&str; 6] = ["a-", "a/b-", "a/b/c", "a/b/d", "a/c", "b"];

/// A server that lies about what it was given before.
async fn filled(listings: Listings) -> S3Server {
    let server = S3Server::start(S3Spec::with(|spec| spec.listings = listings)).await;
    let store = store(&server);
    for name in KEYS {
        store.put(&key(name), "1".into(), PutMode::Create).await.unwrap();
    }
    // Beside the prefix of the store.
    let client = server.client();
    client.send(client.request("PUT", "data-", &[]).body("1")).await.unwrap();
    server
}

fn request(prefix: &str, after: Option<&str>, delimiter: bool) -> ListRequest {
    let start_after = after.map(str::to_owned);
    ListRequest { start_after, delimiter, ..ListRequest::below(prefix) }
}

fn names(page: &ListPage) -> Vec<&str> {
    page.entries.iter().map(|entry| entry.key.as_str()).collect()
}

fn names_of(prefixes: &[String]) -> Vec<&str> {
    prefixes.iter().map(String::as_str).collect()
}

async fn list(server: &S3Server, request: &ListRequest) -> Result<ListPage> {
    store(server).list(request).await
}

#[tokio::test]
async fn pages_that_are_not_ascending_or_begin_elsewhere_are_errors() {
    for (listings, request) in [
        (Listings::OutOfOrder, request("", None, false)),
        (Listings::OutOfOrder, request("a/", Some("a/b-"), false)),
        (Listings::KeysRepeated, request("", None, false)),
        (Listings::StartAfterIgnored, request("", Some("a/b/c"), false)),
        (Listings::StartAfterIgnored, request("a/", Some("a/b/c"), true)),
        (Listings::PrefixIgnored, request("", None, false)),
        (Listings::PrefixIgnored, request("a/", None, false)),
        (Listings::PrefixIgnored, request("a/", None, true)),
        (Listings::DelimiterIgnored, request("a/", None, true)),
    ] {
        let server = filled(listings).await;
        let listed = list(&server, &request).await;
        assert_eq!(kind(listed), ErrorKind::Unavailable, "{listings:?} {request:?}");
    }
}

/// A common prefix may hold the key that a page starts after.
#[tokio::test]
async fn pages_by_the_book_are_taken() {
    let server = filled(Listings::ByTheBook).await;
    assert_eq!(names(&list(&server, &request("", None, false)).await.unwrap()), KEYS);
    let page = list(&server, &request("", None, true)).await.unwrap();
    assert_eq!((names(&page), names_of(&page.prefixes)), (vec!["a-", "b"], vec!["a/"]));
    let page = list(&server, &request("a/", Some("a/b/c"), true)).await.unwrap();
    assert_eq!((names(&page), names_of(&page.prefixes)), (vec!["a/c"], vec![]));
}

/// Paging by the last key misses nothing, and ends.
#[tokio::test]
async fn a_server_that_skips_folders_or_claims_more_is_listed_whole() {
    for listings in [Listings::FolderSkipped, Listings::MoreClaimed] {
        let server = filled(listings).await;
        for (limit, delimiter) in [(1, false), (2, false), (3, false), (6, false), (1, true)] {
            let mut next = ListRequest { limit, delimiter, ..ListRequest::below("") };
            let mut found = Vec::new();
            for _ in 0..=2 * KEYS.len() {
                let page = list(&server, &next).await.unwrap();
                found.extend(names(&page).into_iter().map(str::to_owned));
                found.extend(page.prefixes);
                next.start_after = page.next;
                if next.start_after.is_none() {
                    break;
                }
            }
            assert_eq!(next.start_after, None, "{listings:?} {limit}");
            let whole: &[&str] = if delimiter { &["a-", "a/", "b"] } else { &KEYS };
            assert_eq!(found, whole, "{listings:?} {limit}");
        }
    }
}

#[tokio::test]
async fn the_probe_refuses_a_server_whose_listings_cannot_be_relied_on() {
    for listings in [
        Listings::OutOfOrder,
        Listings::KeysRepeated,
        Listings::StartAfterIgnored,
        Listings::PrefixIgnored,
    ] {
        let server = S3Server::start(S3Spec::with(|spec| spec.listings = listings)).await;
        // What only a server that ignores the prefix shows.
        let client = server.client();
        client.send(client.request("PUT", "other", &[]).body("1")).await.unwrap();
        let refused = store(&server).probe().await.unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains("the listing of the bucket cannot be relied on"), "{why}");
        assert_eq!(server.keys(), ["other"], "{listings:?}: left behind");
    }
    for listings in [Listings::ByTheBook, Listings::FolderSkipped, Listings::MoreClaimed] {
        let server = S3Server::start(S3Spec::with(|spec| spec.listings = listings)).await;
        assert!(store(&server).probe().await.unwrap().is_shareable(), "{listings:?}");
        assert!(server.keys().is_empty());
    }
}

/// Without a prefix of its own a store sees the whole bucket.
#[tokio::test]
async fn a_store_without_prefix_checks_the_same() {
    let server = filled(Listings::OutOfOrder).await;
    let mut options = options(&server);
    options.url.prefix.clear();
    let store = jreg_storage::S3Store::open(options).unwrap();
    assert_eq!(kind(store.list(&ListRequest::below("data/")).await), ErrorKind::Unavailable);
}
