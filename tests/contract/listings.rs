//! Paginated listings of tags and repositories.

use jreg_testkit::{Client, ServerSpec, Step, get, head, index_of, push_manifest, put};
use serde_json::{Value, json};

use crate::contract::on_each;

fn tags(query: &str) -> Step {
    get(&format!("/v2/{{repo}}/tags/list{query}"))
}

fn catalog(query: &str) -> Step {
    get(&format!("/v2/_catalog{query}"))
}

/// Pushes an empty index under each of these tags.
fn tagged(tags: &[&str]) -> Vec<Step> {
    tags.iter().map(|tag| push_manifest(tag, &index_of(&[]))).collect()
}

/// Pushes an empty index to each of these repositories.
fn repositories(names: &[&str]) -> Vec<Step> {
    let push = |name: &&str| {
        put(&format!("/v2/{name}/manifests/v1"))
            .header("Content-Type", jreg_testkit::media::INDEX)
            .body(index_of(&[]).bytes)
            .is(201)
    };
    names.iter().map(push).collect()
}

/// Names in byte order that sort differently where `/` is special.
const ORDERED: [&str; 8] = ["a", "a-b", "a-b/c", "a.b", "a/b", "a0", "a_b", "ab"];

/// Follows `Link` from the first page to the last, and joins the arrays at `pointer`.
pub(crate) async fn follow(client: &Client, first: &str, pointer: &str) -> (Vec<Value>, usize) {
    const PAGES_MAX: usize = 200;
    let (mut items, mut next) = (Vec::new(), Some(first.to_owned()));
    for pages in 0..PAGES_MAX {
        let Some(target) = next else { return (items, pages) };
        let page = client.get(&target).await;
        assert_eq!(page.status, 200, "{target}: {page}");
        items.extend(page.json().pointer(pointer).unwrap().as_array().unwrap().clone());
        next = page.next_link();
        assert!(page.header("Link").is_none() || next.is_some(), "a Link that is none: {page}");
    }
    panic!("more than {PAGES_MAX} pages from {first}");
}

contract! {
    c12_tags_in_byte_order: steps![
        tagged(&["b", "a", "B", "_x", "10", "9", "a.1", "a-1", "a_1"]),
        tags("")
            .is(200)
            .has("Content-Type", "application/json")
            .json("/name", "{repo}")
            .json("/tags", json!(["10", "9", "B", "_x", "a", "a-1", "a.1", "a_1", "b"]))
            .lacks("Link"),
        head("/v2/{repo}/tags/list").is(200),
    ];

    c12_tags_of_an_unknown_repository: steps![
        tags("").is(404).code("NAME_UNKNOWN"),
        head("/v2/{repo}/tags/list").is(404),
        tags("?n=5").is(404).code("NAME_UNKNOWN"),
        tags("?last=a").is(404).code("NAME_UNKNOWN"),
    ];

    c12_no_tags_at_all_is_an_empty_page: steps![
        tagged(&["a", "b"]),
        tags("?n=0").is(200).json("/tags", json!([])).lacks("Link"),
        tags("?n=0&last=a").is(200).json("/tags", json!([])).lacks("Link"),
    ];

    c12_page_of_tags: steps![
        tagged(&["a", "b", "c", "d", "e"]),
        tags("?n=2").is(200).json("/tags", json!(["a", "b"])).has_part("Link", "rel=\"next\"").has_part("Link", "</v2/{repo}/tags/list?"),
        tags("?n=2&last=b").is(200).json("/tags", json!(["c", "d"])).has_part("Link", "last=d"),
        tags("?n=2&last=d").is(200).json("/tags", json!(["e"])).lacks("Link"),
        tags("?n=5").is(200).json("/tags", json!(["a", "b", "c", "d", "e"])).lacks("Link"),
        tags("?n=1&last=e").is(200).json("/tags", json!([])).lacks("Link"),
        tags("?last=c").is(200).json("/tags", json!(["d", "e"])).lacks("Link"),
    ];

    c12_last_need_not_exist: steps![
        tagged(&["a", "c"]),
        tags("?last=b").is(200).json("/tags", json!(["c"])),
        tags("?last=0").is(200).json("/tags", json!(["a", "c"])),
        tags("?last=zzz").is(200).json("/tags", json!([])).lacks("Link"),
        tags("?n=1&last=aa").is(200).json("/tags", json!(["c"])).lacks("Link"),
    ];

    fixed_page_size_that_is_no_number_is_400: steps![
        tagged(&["a"]),
        tags("?n=abc").is(400),
        tags("?n=-1").is(400),
        tags("?n=1.5").is(400),
        tags("?n=1&n=2").is(400),
        catalog("?n=abc").is(400),
        catalog("?n=-1").is(400),
    ];

    c12_an_empty_page_size_is_none: steps![
        tagged(&["a", "b"]),
        tags("?n=").is(200).json("/tags", json!(["a", "b"])),
        tags("?n=&last=").is(200).json("/tags", json!(["a", "b"])),
        tags("?n=1&n=1").is(200).json("/tags", json!(["a"])),
        catalog("?n=").is(200).json("/repositories/0", "{repo}"),
    ];

    c12_huge_page_sizes_are_clamped: steps![
        tagged(&["a", "b"]),
        tags("?n=1000000").is(200).json("/tags", json!(["a", "b"])),
        tags("?n=99999999999999999999999999").is(200).json("/tags", json!(["a", "b"])),
        catalog("?n=99999999999999999999999999").is(200),
    ];

    c12_pages_have_a_limit [ServerSpec::with(|s| s.page_items_max = 2)]: steps![
        tagged(&["a", "b", "c"]),
        tags("").is(200).json("/tags", json!(["a", "b"])).has_part("Link", "rel=\"next\""),
        tags("?n=3").is(200).json("/tags", json!(["a", "b"])).has_part("Link", "rel=\"next\""),
        tags("?n=3&last=b").is(200).json("/tags", json!(["c"])).lacks("Link"),
        repositories(&["x", "y", "z"]),
        catalog("?last=contract").is(200).has_part("Link", "rel=\"next\""),
    ];

    catalog_in_byte_order: steps![
        catalog("").is(200).json("/repositories", json!([])).lacks("Link"),
        repositories(&["ab", "a_b", "a0", "a/b", "a.b", "a-b/c", "a-b", "a"]),
        catalog("").is(200).has("Content-Type", "application/json").json("/repositories", ORDERED.to_vec()),
        head("/v2/_catalog").is(200),
    ];

    page_of_the_catalog: steps![
        repositories(&ORDERED),
        catalog("?n=2").is(200).json("/repositories", json!(["a", "a-b"])).has_part("Link", "rel=\"next\""),
        catalog("?n=2&last=a-b").is(200).json("/repositories", json!(["a-b/c", "a.b"])),
        catalog("?n=2&last=a/b").is(200).json("/repositories", json!(["a0", "a_b"])),
        catalog("?n=2&last=a%2Fb").is(200).json("/repositories", json!(["a0", "a_b"])),
        catalog("?n=2&last=a_b").is(200).json("/repositories", json!(["ab"])).lacks("Link"),
        catalog("?n=0").is(200).json("/repositories", json!([])).lacks("Link"),
        catalog("?last=aaa").is(200).json("/repositories", json!(["ab"])),
    ];
}

#[test]
fn fixed_links_lead_to_every_tag() {
    on_each(ServerSpec::default, |server| async move {
        let client = server.client();
        let tags: Vec<_> = (0..25).map(|n| format!("t{:02}", (n * 7) % 25)).collect();
        let names: Vec<_> = tags.iter().map(String::as_str).collect();
        jreg_testkit::Scenario::new("paged", client.clone()).run(tagged(&names)).await;
        let mut sorted: Vec<Value> = tags.into_iter().map(Value::from).collect();
        sorted.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        for (n, pages) in [(1, 25), (4, 7), (5, 5), (24, 2), (25, 1), (26, 1)] {
            let found =
                follow(&client, &format!("/v2/contract/paged/tags/list?n={n}"), "/tags").await;
            assert_eq!(found, (sorted.clone(), pages), "n={n}");
        }
        server.stop().await;
    });
}

#[test]
fn fixed_links_lead_to_every_repository() {
    on_each(ServerSpec::default, |server| async move {
        let client = server.client();
        jreg_testkit::Scenario::new("paged", client.clone()).run(repositories(&ORDERED)).await;
        for n in 1..=9 {
            let (found, _) = follow(&client, &format!("/v2/_catalog?n={n}"), "/repositories").await;
            assert_eq!(found, ORDERED, "n={n}");
        }
        server.stop().await;
    });
}
