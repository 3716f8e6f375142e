//! Repository names: every valid one works even if its components look like endpoints, and others
//! are rejected.

use jreg_testkit::{
    Image, Request, Step, delete, get, index_of, media, patch, post, push_blob_to, put, sha256,
};
use serde_json::json;

use crate::contract::on_each;

/// Pushes and pulls all kinds of content in this repository.
fn lives(name: &str) -> Vec<Step> {
    let v2 = format!("/v2/{name}");
    let digest = index_of(&[]).digest();
    let push = |reference: &str| {
        put(&format!("{v2}/manifests/{reference}"))
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(201)
    };
    steps![
        push_blob_to(name, "hello").has("Location", &format!("{v2}/blobs/{}", sha256("hello"))),
        get(&format!("{v2}/blobs/{}", sha256("hello"))).is(200).gives("hello"),
        post(&format!("{v2}/blobs/uploads/"))
            .is(202)
            .has_part("Location", &format!("{v2}/blobs/uploads/"))
            .keep("Location", "up"),
        patch("{up}").body("hello").is(202),
        get("{up}").is(204),
        delete("{up}").is(204),
        push("v1"),
        push(&digest),
        get(&format!("{v2}/manifests/v1")).is(200).gives(index_of(&[]).bytes),
        get(&format!("{v2}/tags/list")).is(200).json("/name", name).json("/tags", json!(["v1"])),
        get(&format!("{v2}/referrers/{digest}")).is(200),
        get("/v2/_catalog").is(200).json("/repositories", json!([name])),
        delete(&format!("{v2}/manifests/v1")).is(202),
        delete(&format!("{v2}/manifests/{digest}")).is(202),
        delete(&format!("{v2}/blobs/{}", sha256("hello"))).is(202),
    ]
}

/// A name of this length with several components.
fn long(len: usize) -> String {
    let mut name = "component/".repeat(len / 10 + 1);
    name.truncate(len);
    if name.ends_with('/') {
        name.replace_range(len - 1.., "x")
    }
    name
}

contract! {
    name_of_one_letter: lives("a");
    name_with_separators: lives("a-b.c_d__e---f/9");
    c21_name_with_many_components: lives("a/b/c/d/e/f/g/h/i/j/k/l");
    name_that_is_blobs: lives("blobs");
    name_that_is_manifests: lives("manifests/manifests");
    name_that_is_uploads: lives("a/blobs/uploads");
    name_that_is_uploads_with_more: lives("blobs/uploads/blobs/uploads");
    name_that_is_tags: lives("tags/list");
    name_that_ends_in_tags: lives("a/tags/list/b");
    name_that_is_referrers: lives("referrers/referrers");
    name_that_is_v2: lives("v2/v2");
    name_that_is_catalog: lives("catalog");
    name_that_is_a_digest_algorithm: lives("sha256/blobs/sha256");
    c21_name_of_255_letters: lives(&"a".repeat(255));
    c21_name_of_255_letters_in_components: lives(&long(255));

    c21_name_of_256_letters_is_400: steps![
        post(&format!("/v2/{}/blobs/uploads/", "a".repeat(256))).is(400).code("NAME_INVALID"),
        get(&format!("/v2/{}/tags/list", "a".repeat(256))).is(400).code("NAME_INVALID"),
        post(&format!("/v2/{}/blobs/uploads/", "a".repeat(20_000))).is_one_of([400, 414]),
    ];

    names_nested_in_names_are_apart: steps![
        push_blob_to("a", "one"),
        push_blob_to("a/blobs", "two"),
        get(&format!("/v2/a/blobs/{}", sha256("two"))).is(404),
        get(&format!("/v2/a/blobs/blobs/{}", sha256("two"))).is(200).gives("two"),
        get(&format!("/v2/a/blobs/blobs/{}", sha256("one"))).is(404),
    ];
}

/// Names that violate the grammar, or attempt path traversal.
const BAD: &[&str] = &[
    "UPPER",
    "a//b",
    "/a",
    "a/",
    "-a",
    "a-",
    ".a",
    "a.",
    "_a",
    "a_",
    "a___b",
    "a..b",
    "a._b",
    "a-/b",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "a/./b",
    "./a",
    "../../../../etc/passwd",
    "%2e%2e",
    "%2e%2e%2fetc",
    "a%2f..%2fb",
    "a%00b",
    "%00",
    "a%20b",
    "a%5cb",
    "a\\b",
    "..\\..\\a",
    "%c0%ae%c0%ae",
    "a%ff",
    "%",
    "a%zz",
    "a%",
    "%C3%A9",
    "a:b",
    "a@b",
    "a*b",
    "a;b",
    "a,b",
    "a~b",
    "a!b",
    "a$b",
    "a(b)",
    "a=b",
    "a+b",
    "_catalog",
    "_uploads/a",
    "a%25b",
    "a%252Fb",
    "a%2F%2Fb",
    "a%252e%252e",
    "%2Fetc%2Fpasswd",
    "a%0d%0aSet-Cookie:x",
    "con.",
    "\u{3b1}",
];

fn requests(name: &str) -> [Request; 7] {
    let target = |rest: &str| format!("/v2/{name}/{rest}");
    let index = index_of(&[]);
    [
        Request::new("POST", target("blobs/uploads/")).body(""),
        Request::new("POST", target(&format!("blobs/uploads/?digest={}", sha256("x")))).body("x"),
        Request::new("PUT", target("manifests/v1"))
            .header("Content-Type", media::INDEX)
            .body(index.bytes),
        Request::new("GET", target(&format!("blobs/{}", sha256("x")))),
        Request::new("GET", target("manifests/v1")),
        Request::new("GET", target("tags/list")),
        Request::new("DELETE", target("manifests/v1")),
    ]
}

#[test]
fn bad_names_are_refused_and_create_nothing() {
    on_each(Default::default, |server| async move {
        let before = server.entries().await;
        for name in BAD {
            for request in requests(name) {
                let response = server.client().send(request.clone()).await;
                assert!([400, 404, 405].contains(&response.status), "{request}{response}");
            }
        }
        let catalog = server.client().get("/v2/_catalog").await;
        assert_eq!(catalog.json(), json!({"repositories": []}));
        assert_eq!(server.entries().await, before, "something was created");
        server.stop().await;
    });
}

/// Bytes that are no valid request target may be rejected below the API.
#[test]
fn targets_that_are_none_are_refused() {
    on_each(Default::default, |server| async move {
        for target in
            ["/v2/a\0b/tags/list", "/v2/a b/tags/list", "/v2/a\u{7f}/tags/list", "v2/", "*", ""]
        {
            let response = server.client().send_unchecked(&Request::new("GET", target)).await;
            let refused = response.as_ref().is_ok_and(|a| [400, 404, 405].contains(&a.status))
                || response.is_err();
            assert!(refused, "{target:?}: {response:?}");
        }
        let long = Request::new("GET", format!("/v2/{}/tags/list", "a".repeat(100_000)));
        let response = server.client().send_unchecked(&long).await.unwrap();
        assert!([400, 414].contains(&response.status), "{response}");
        assert_eq!(server.client().get("/v2/").await.status, 200);
        server.stop().await;
    });
}

/// A reference that attempts path traversal.
#[test]
fn bad_references_are_refused_and_create_nothing() {
    on_each(Default::default, |server| async move {
        let index = index_of(&[]);
        let before = server.entries().await;
        for reference in [
            "..",
            "%2e%2e",
            "../../x",
            "a%2f..%2fb",
            "a%00",
            "sha256:../../x",
            "sha256:%2e%2e",
            "%2Ftmp",
            "a/b",
        ] {
            for target in
                ["/v2/a/manifests/", "/v2/a/blobs/", "/v2/a/referrers/", "/v2/a/blobs/uploads/"]
            {
                let target = format!("{target}{reference}");
                for method in ["GET", "PUT", "PATCH", "DELETE"] {
                    let body = if method == "GET" {
                        jreg_testkit::Body::None
                    } else {
                        jreg_testkit::Body::Sized(index.bytes.clone())
                    };
                    let request = Request {
                        body,
                        ..Request::new(method, &*target).header("Content-Type", media::INDEX)
                    };
                    let response = server.client().send(request.clone()).await;
                    assert!([204, 400, 404, 405].contains(&response.status), "{request}{response}");
                    assert!(response.status != 204 || method == "DELETE", "{request}{response}");
                }
            }
        }
        assert_eq!(server.entries().await, before, "something was created");
        let image = Image::plain(1);
        jreg_testkit::Scenario::new("after", server.client())
            .run(jreg_testkit::push_image("v1", &image))
            .await;
        server.stop().await;
    });
}

/// Portainer and the SDKs of Azure encode the slashes of a name. It is the same repository.
#[test]
fn c31_slashes_of_a_name_may_be_encoded() {
    on_each(Default::default, |server| async move {
        let mut scenario = jreg_testkit::Scenario::new("encoded", server.client());
        let (index, blob) = (index_of(&[]), sha256("hello"));
        let v2 = "/v2/team%2Fa%2fapp";
        let step = |step: Step| step.header("Content-Type", media::INDEX);
        scenario
            .run(steps![
                push_blob_to("team%2Fa%2Fapp", "hello")
                    .has("Location", &format!("/v2/team/a/app/blobs/{blob}")),
                step(put(&format!("{v2}/manifests/v1"))).body(index.bytes.clone()).is(201),
                get("/v2/team/a/app/manifests/v1").is(200).gives(index.bytes.clone()),
                get(&format!("{v2}/manifests/v1")).is(200).gives(index.bytes),
                get(&format!("{v2}/blobs/{blob}")).is(200).gives("hello"),
                get(&format!("{v2}/tags/list")).is(200).json("/name", "team/a/app"),
                get(&format!("{v2}%2Ftags%2Flist")).is(200).json("/tags", json!(["v1"])),
                get(&format!("{v2}/referrers/{blob}")).is(200),
                post(&format!("{v2}/blobs/uploads/"))
                    .is(202)
                    .has_part("Location", "/v2/team/a/app/blobs/uploads/")
                    .keep("Location", "up"),
                patch("{up}").body("x").is(202),
                get("/v2/_catalog").is(200).json("/repositories", json!(["team/a/app"])),
                get("/v2/team%252Fa/tags/list").is(400).code("NAME_INVALID"),
                delete(&format!("{v2}/manifests/v1")).is(202),
                delete(&format!("{v2}/blobs/{blob}")).is(202),
            ])
            .await;
        server.stop().await;
    });
}
