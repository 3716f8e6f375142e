//! Clauses about listings: order, prefixes, pages, and what a listing may not miss.

use super::*;

/// Keys whose order as folders and files is not their order as bytes: `-` and `.` come before
/// `/`, and `0` after it.
const NASTY: [&str; 16] = [
    "a!/z", "a-/b", "a-b", "a-bc/d", "a.b", "a/!", "a/b!c/d", "a/b-c", "a/b/c", "a/b/d/e", "a/b0",
    "a/c/d", "a0", "a0b/c", "b", "z/y/x/w",
];

/// What a listing must answer, by filtering all keys.
fn plain_filter(keys: &[&str], request: &ListRequest) -> (Vec<String>, Vec<String>, bool) {
    let mut shown: Vec<String> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(&request.prefix)) {
        let rest = key.strip_prefix(request.prefix.as_str()).unwrap();
        let name = match rest.split_once('/') {
            Some((first, _)) if request.delimiter => format!("{}{first}/", request.prefix),
            _ => (*key).to_owned(),
        };
        let after = request.start_after.as_ref().is_none_or(|after| name > *after);
        if after && shown.last() != Some(&name) {
            shown.push(name);
        }
    }
    let cut = shown.len() > request.limit;
    shown.truncate(request.limit);
    let (prefixes, entries) = shown.into_iter().partition(|name| name.ends_with('/'));
    (entries, prefixes, cut)
}

/// For every prefix and every place to start, with and without delimiter, whole and in pages:
/// the keys (or common prefixes) that start so, in byte order, and `next` whenever it was cut.
pub async fn listing_agrees_with_a_plain_filter(store: Arc<dyn Store>) {
    let mut keys = NASTY;
    keys.sort_unstable();
    for name in NASTY {
        put(&*store, name, name).await;
    }
    let starts = ["", "a", "a-", "a-b/", "a.", "a/", "a/b", "a/b/", "a/b/c", "a/b/cc", "a0", "zz"];
    for prefix in
        ["", "a", "a-", "a-b", "a/", "a/b", "a/b/", "a/b/d/e", "a/b/d/e/", "b", "z/y/", "zz"]
    {
        for after in starts.iter().map(|after| Some((*after).to_owned())).chain([None]) {
            for (delimiter, limit) in
                [(false, 1), (false, 3), (false, 1000), (true, 1), (true, 2), (true, 1000)]
            {
                let request = ListRequest {
                    prefix: prefix.to_owned(),
                    start_after: after.clone(),
                    delimiter,
                    limit,
                };
                let page = store.list(&request).await.unwrap();
                let (entries, prefixes, cut) = plain_filter(&keys, &request);
                assert_eq!(names(&page), entries, "{request:?}");
                assert_eq!(page.prefixes, prefixes, "{request:?}");
                assert_eq!(page.next.is_some(), cut, "{request:?}");
                let last = entries.last().max(prefixes.last()).cloned();
                assert!(page.next.is_none() || page.next == last, "{request:?}: {:?}", page.next);
            }
        }
    }
}

/// Pages of each small limit join to the whole, also where names of folders begin alike.
pub async fn pages_of_small_limits_join(store: Arc<dyn Store>) {
    let mut keys = NASTY;
    keys.sort_unstable();
    for name in NASTY {
        put(&*store, name, name).await;
    }
    for (prefix, limit) in [("", 1), ("", 2), ("", 3), ("", 5), ("a", 1), ("a", 3), ("a/", 2)] {
        let mut request = ListRequest { limit, ..ListRequest::below(prefix) };
        let mut found = Vec::new();
        for _ in 0..=keys.len() {
            let page = store.list(&request).await.unwrap();
            found.extend(names(&page));
            request.start_after = page.next;
            if request.start_after.is_none() {
                break;
            }
        }
        let wanted: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{prefix:?}, limit {limit}");
    }
}

/// A listing tells the size and the time of each object as `head` and `get` do.
pub async fn listing_shows_sizes_and_times(store: Arc<dyn Store>) {
    put(&*store, "a/1", "1").await;
    put(&*store, "a/22", "22").await;
    let page = store.list(&ListRequest::below("a/")).await.unwrap();
    assert_eq!(names(&page), ["a/1", "a/22"]);
    for entry in page.entries {
        let record = store.get(&entry.key).await.unwrap();
        assert_eq!(entry.size_bytes, record.bytes.len() as u64);
        assert_eq!(entry.last_modified, record.last_modified);
        assert!(entry.etag.is_none_or(|etag| etag == record.etag));
    }
}

/// A prefix that no key has, or could have, is an empty last page.
pub async fn unknown_prefix_is_an_empty_page(store: Arc<dyn Store>) {
    put(&*store, "a/b", "bytes").await;
    for prefix in
        ["x", "x/", "a/x/", "a/b/", "/", "/a", "a//", "..", "../", "a/../a/", "./", "é/", "a/\0"]
    {
        for delimiter in [false, true] {
            let request = ListRequest { delimiter, ..ListRequest::below(prefix) };
            let page = store.list(&request).await.unwrap();
            assert!(page.entries.is_empty() && page.prefixes.is_empty(), "{prefix:?}: {page:?}");
            assert_eq!(page.next, None);
        }
    }
}

/// What was deleted is not listed, nor a common prefix below which nothing is left.
pub async fn deleted_keys_are_not_listed(store: Arc<dyn Store>) {
    for name in ["a/1", "a/2", "b/deep/1"] {
        put(&*store, name, "bytes").await;
    }
    store.delete(&key("a/1"), None).await.unwrap();
    store.delete(&key("b/deep/1"), None).await.unwrap();
    assert_eq!(list_all(&*store, "").await, ["a/2"]);
    let page =
        store.list(&ListRequest { delimiter: true, ..ListRequest::below("") }).await.unwrap();
    assert_eq!(page.prefixes, ["a/"]);
}

/// Pages of a listing longer than any store's page join to the whole, each key once, in order.
pub async fn pages_join_without_gap_or_repetition(store: Arc<dyn Store>) {
    let shared = store.clone();
    sixteen(move |n| fill(shared.clone(), n)).await;
    let mut wanted: Vec<String> = (0..1120).map(numbered).collect();
    wanted.sort();
    for limit in [1000, 5000, 333] {
        let mut request = ListRequest { limit, ..ListRequest::below("n/") };
        let mut found = Vec::new();
        for _ in 0..10 {
            let page = store.list(&request).await.unwrap();
            assert!(page.entries.len() <= limit);
            found.extend(names(&page));
            request.start_after = page.next;
            if request.start_after.is_none() {
                break;
            }
        }
        assert_eq!(found, wanted, "limit {limit}");
    }
}

fn numbered(n: usize) -> String {
    format!("n/{}/{}", n % 7, n * 7919 % 1120)
}

async fn fill(store: Arc<dyn Store>, worker: u8) {
    for n in (usize::from(worker)..1120).step_by(16) {
        put(&*store, &numbered(n), "").await;
    }
}

/// A key that exists throughout a listing is in it, even while it is being overwritten.
pub async fn overwritten_key_is_always_listed(store: Arc<dyn Store>) {
    for name in ["f/a", "f/b", "f/c"] {
        put(&*store, name, "0").await;
    }
    let writers =
        ["f/a", "f/b", "f/c"].map(|name| tokio::spawn(overwrite_often(store.clone(), name)));
    while !writers.iter().all(|writer| writer.is_finished()) {
        assert_eq!(list_all(&*store, "f/").await, ["f/a", "f/b", "f/c"]);
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn overwrite_often(store: Arc<dyn Store>, name: &'static str) {
    for n in 0..100 {
        store.put(&key(name), n.to_string().into(), PutMode::Overwrite).await.unwrap();
    }
}

/// A key that exists throughout a listing is in it, while others in its folder, and folders
/// beside it, are created and removed.
pub async fn key_is_listed_while_siblings_come_and_go(store: Arc<dyn Store>) {
    put(&*store, "f/m", "stays").await;
    let siblings = ["f/a", "f/z", "f/l/x", "f/m-"]
        .map(|name| tokio::spawn(super::records::come_and_go(store.clone(), name.to_owned(), 50)));
    while !siblings.iter().all(|sibling| sibling.is_finished()) {
        let found = list_all(&*store, "f/").await;
        assert!(found.contains(&"f/m".to_owned()), "{found:?}");
        assert!(found.is_sorted(), "{found:?}");
    }
    for sibling in siblings {
        sibling.await.unwrap();
    }
    assert_eq!(list_all(&*store, "").await, ["f/m"]);
}
