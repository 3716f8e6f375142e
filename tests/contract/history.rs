//! The history of tags, restores, deleted manifests, and the discovery of extensions.

use jreg_registry::ReferencePolicy;
use jreg_testkit::{
    Client, Image, Manifest, Response, Scenario, ServerSpec, Step, delete, get, head, index_of,
    post, push_blob, push_image, push_manifest, sha256,
};
use serde_json::{Value, json};

use crate::contract::blobs::blob;
use crate::contract::listings::follow;
use crate::contract::manifests::manifest;
use crate::contract::on_each;

const V1: &str = "/v2/{repo}/_jreg/tags/v1/history";
const OCI: &str = "/v2/{repo}/_oci/tag-history/v1";
const RESTORE_V1: &str = "/v2/{repo}/_jreg/tags/v1/restore";
const DELETED: &str = "/v2/{repo}/_jreg/deleted";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn image(seed: u64) -> Manifest {
    Image::plain(seed).manifest
}

fn oci(query: &str) -> Step {
    get(&format!("{OCI}{query}"))
}

/// A POST of JSON.
fn send(target: &str, body: Value) -> Step {
    post(target).header("Content-Type", "application/json").body(body.to_string())
}

fn restore_tag(to: &Manifest) -> Step {
    send(RESTORE_V1, json!({ "digest": to.digest() }))
}

fn restore(manifest: &Manifest, body: Value) -> Step {
    send(&format!("{DELETED}/{}/restore", manifest.digest()), body)
}

/// `v1` pointed to the images 1 and 2, was deleted, and points to image 3.
fn moved() -> Vec<Step> {
    steps![
        push_image("v1", &Image::plain(1)),
        push_image("v1", &Image::plain(2)),
        delete(&manifest("v1")).is(202),
        push_image("v1", &Image::plain(3)),
    ]
}

/// The digests and events of a history must be these.
fn events<const N: usize>(
    expected: [(&'static str, Option<u64>); N],
) -> impl Fn(&Response) -> Result<(), String> {
    let expected: Vec<Value> = expected
        .into_iter()
        .map(|(event, seed)| json!([event, seed.map(|seed| image(seed).digest())]))
        .collect();
    move |response| {
        let history = response.json()["history"].clone();
        let found: Vec<Value> = history
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| json!([entry["event"], entry.get("digest")]))
            .collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}, not {expected:?}")) }
    }
}

/// The same of the form of the draft.
fn oci_events<const N: usize>(
    expected: [(&'static str, u64); N],
) -> impl Fn(&Response) -> Result<(), String> {
    let expected: Vec<Value> =
        expected.into_iter().map(|(event, seed)| json!([event, image(seed).digest()])).collect();
    move |response| {
        let index = response.json();
        let manifests = index["manifests"].as_array().cloned().unwrap_or_default();
        let found: Vec<Value> = manifests
            .iter()
            .map(|of| {
                json!([
                    of["annotations"]["org.opencontainers.distribution.tag.event"],
                    of["digest"]
                ])
            })
            .collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}, not {expected:?}")) }
    }
}

/// Each entry ends when the one before it began, and only the first is current.
fn in_order(response: &Response) -> Result<(), String> {
    let history = response.json()["history"].as_array().cloned().unwrap_or_default();
    let ordered = history.windows(2).all(|pair| {
        pair[0]["change"].as_str() > pair[1]["change"].as_str()
            && pair[1]["until"] == pair[0]["time"]
            && pair[0]["time"].as_str() > pair[1]["time"].as_str()
    });
    let current = history.first().is_some_and(|first| first.get("until").is_none());
    if ordered && current { Ok(()) } else { Err(format!("{history:?}")) }
}

contract! {
    every_change_of_a_tag_is_in_its_history: steps![
        moved(),
        get(V1)
            .is(200)
            .has("Content-Type", "application/json")
            .json("/name", "{repo}")
            .json("/tag", "v1")
            .json("/history/0/mediaType", image(3).media_type)
            .json("/history/0/size", image(3).bytes.len())
            .json("/history/0/actor", "anonymous")
            .json("/history/2/mediaType", image(2).media_type)
            .satisfies(events([("set", Some(3)), ("deleted", None), ("set", Some(2)), ("set", Some(1))]))
            .satisfies(in_order)
            .lacks("Link"),
        head(V1).is(200),
    ];

    a_change_names_its_request: steps![
        push_image("v1", &Image::plain(1)),
        push_manifest("v1", &index_of(&[image(1).descriptor()])).header("X-Request-ID", "one.2"),
        get(V1).is(200).json("/history/0/requestId", "one.2"),
    ];

    a_push_of_the_same_digest_is_no_change: steps![
        push_image("v1", &Image::plain(1)),
        get(V1).is(200).satisfies(events([("set", Some(1))])),
        push_manifest("v1", &image(1)),
        push_manifest("v1", &image(1)),
        get(V1).is(200).satisfies(events([("set", Some(1))])),
    ];

    the_history_of_a_deleted_tag_is_still_there: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest("v1")).is(202),
        get(&manifest("v1")).is(404),
        get(V1).is(200).satisfies(events([("deleted", None), ("set", Some(1))])),
        delete(&manifest("v1")).is(404),
        get(V1).is(200).satisfies(events([("deleted", None), ("set", Some(1))])),
    ];

    a_delete_by_digest_is_in_the_history_of_each_tag: steps![
        push_image("v1", &Image::plain(1)),
        push_manifest("v2", &image(1)),
        delete(&manifest(&image(1).digest())).is(202),
        get(V1).is(200).satisfies(events([("deleted", None), ("set", Some(1))])),
        get("/v2/{repo}/_jreg/tags/v2/history").is(200).satisfies(events([("deleted", None), ("set", Some(1))])),
    ];

    the_history_of_an_unknown_tag_is_404: steps![
        get(V1).is(404).code("MANIFEST_UNKNOWN"),
        push_image("v1", &Image::plain(1)),
        get("/v2/{repo}/_jreg/tags/v2/history").is(404).code("MANIFEST_UNKNOWN"),
        get("/v2/{repo}/_jreg/tags/-x/history").is(400).code("MANIFEST_INVALID"),
        get(&format!("{V1}?last=x")).is(400).code("UNSUPPORTED"),
        get(&format!("{V1}?n=x")).is(400).code("UNSUPPORTED"),
        get(&format!("{V1}?n=0")).is(200).json("/history", json!([])).lacks("Link"),
    ];

    /// The draft: each descriptor of a deletion is of the manifest that the tag pointed to.
    history_as_drafted: steps![
        moved(),
        oci("")
            .is(200)
            .has("Content-Type", INDEX)
            .json("/schemaVersion", 2)
            .json("/mediaType", INDEX)
            .json("/manifests/1/mediaType", image(2).media_type)
            .json("/manifests/1/size", image(2).bytes.len())
            .satisfies(oci_events([("created", 3), ("deleted", 2), ("created", 2), ("created", 1)]))
            .lacks("Link"),
        head(OCI).is(200),
    ];

    history_as_drafted_of_one_manifest: steps![
        moved(),
        oci(&format!("?digest={}", image(2).digest())).is(200).satisfies(oci_events([("deleted", 2), ("created", 2)])).lacks("Link"),
        oci(&format!("?n=1&digest={}", image(2).digest())).is(200).satisfies(oci_events([("deleted", 2)])).has_part("Link", "digest=sha256:"),
        oci(&format!("?digest={}", sha256("x"))).is(200).satisfies(oci_events([])).lacks("Link"),
        oci("?digest=x").is(400).code("DIGEST_INVALID"),
    ];

    /// The draft: no other response may be 404, so that 404 says that there are no histories.
    history_as_drafted_is_never_404: steps![
        oci("").is(200).satisfies(oci_events([])).lacks("Link"),
        oci("?n=0").is(200).satisfies(oci_events([])).lacks("Link"),
        moved(),
        oci("?n=0").is(200).satisfies(oci_events([])).lacks("Link"),
        get("/v2/{repo}/_oci/tag-history/other").is(200).satisfies(oci_events([])),
        get("/v2/no/such/_oci/tag-history/v1").is(200).satisfies(oci_events([])),
        get("/v2/{repo}/_oci/tag-history/-x").is(400).code("MANIFEST_INVALID"),
        oci("?since=yesterday").is(400).code("UNSUPPORTED"),
        oci("?before=2026-04-03").is(400).code("UNSUPPORTED"),
        oci("?before=1970-01-01T00:00:00Z").is(200).satisfies(oci_events([])).lacks("Link"),
        oci("?since=9999-12-31T23:59:59Z").is(200).satisfies(oci_events([])).lacks("Link"),
        oci("?since=1970-01-01T00:00:00%2B01:00").is(200).satisfies(oci_events([("created", 3), ("deleted", 2), ("created", 2), ("created", 1)])),
    ];

    a_tag_goes_back_to_an_earlier_manifest: steps![
        moved(),
        restore_tag(&image(1))
            .is(200)
            .has("Content-Type", "application/json")
            .has("ETag", &format!("\"{}\"", image(1).digest()))
            .json("/tag", "v1")
            .json("/before", image(3).digest())
            .json("/after", image(1).digest()),
        get(&manifest("v1")).is(200).gives(image(1).bytes),
        get(V1).is(200).satisfies(events([
            ("set", Some(1)), ("set", Some(3)), ("deleted", None), ("set", Some(2)), ("set", Some(1)),
        ])),
    ];

    a_deleted_tag_is_restored: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest("v1")).is(202),
        restore_tag(&image(1)).is(200).json("/before", Value::Null).json("/after", image(1).digest()),
        get(&manifest("v1")).is(200).gives(image(1).bytes),
        get("/v2/{repo}/tags/list").is(200).json("/tags", json!(["v1"])),
    ];

    a_restore_of_a_tag_takes_conditions: steps![
        moved(),
        restore_tag(&image(1)).header("If-Match", &format!("\"{}\"", image(2).digest())).is(412).code("MANIFEST_INVALID"),
        restore_tag(&image(1)).header("If-None-Match", "*").is(412),
        get(&manifest("v1")).is(200).gives(image(3).bytes),
        restore_tag(&image(1)).header("If-Match", &format!("\"{}\"", image(3).digest())).is(200),
        get(&manifest("v1")).is(200).gives(image(1).bytes),
    ];

    a_tag_is_restored_only_to_what_is_there: steps![
        push_image("v1", &Image::plain(1)),
        send(RESTORE_V1, json!({ "digest": sha256("x") })).is(404).code("MANIFEST_UNKNOWN"),
        get(&manifest("v1")).is(200).gives(image(1).bytes),
    ];

    a_restore_has_a_small_body_of_json: steps![
        push_image("v1", &Image::plain(1)),
        post(RESTORE_V1).header("Content-Type", "application/json").is(400).code("UNSUPPORTED"),
        post(RESTORE_V1).header("Content-Type", "application/json").body("{").is(400).code("UNSUPPORTED"),
        send(RESTORE_V1, json!({ "digest": "x" })).is(400).code("UNSUPPORTED"),
        send(RESTORE_V1, json!({ "digest": sha256("x"), "other": 1 })).is(400).code("UNSUPPORTED"),
        send(RESTORE_V1, json!({ "digest": "x".repeat(5000) })).is(413).code("SIZE_INVALID"),
        post(RESTORE_V1).header("Content-Type", "text/plain").body("{}").is(415).code("UNSUPPORTED"),
        post(RESTORE_V1).body("{}").is(415),
        post(RESTORE_V1).header("Content-Type", "application/json; charset=utf-8").body(json!({ "digest": image(1).digest() }).to_string()).is(200),
        restore(&image(1), json!({ "tags": 1 })).is(400).code("UNSUPPORTED"),
        post(&format!("{DELETED}/{}/restore", sha256("x"))).is(415),
    ];

    a_deleted_manifest_is_listed_and_restored_with_its_tags: steps![
        push_image("v1", &Image::plain(1)),
        push_manifest("v2", &image(1)),
        get(DELETED).is(200).json("/name", "{repo}").json("/manifests", json!([])),
        delete(&manifest(&image(1).digest())).is(202),
        get(DELETED)
            .is(200)
            .json("/manifests/0/digest", image(1).digest())
            .json("/manifests/0/mediaType", image(1).media_type)
            .json("/manifests/0/size", image(1).bytes.len())
            .json("/manifests/0/actor", "anonymous")
            .json("/manifests/0/tags", json!(["v1", "v2"]))
            .json("/manifests/1", Value::Null),
        head(DELETED).is(200),
        push_image("v2", &Image::plain(2)),
        restore(&image(1), json!({ "tags": true }))
            .is(200)
            .json("/digest", image(1).digest())
            .json("/tags/0/tag", "v1")
            .json("/tags/0/after", image(1).digest())
            .json("/tags/1", Value::Null)
            .json("/tagsKept", json!(["v2"])),
        get(&manifest("v1")).is(200).gives(image(1).bytes),
        get(&manifest("v2")).is(200).gives(image(2).bytes),
        get(DELETED).is(200).json("/manifests", json!([])),
    ];

    a_deleted_manifest_is_restored_without_tags_unless_they_are_asked_for: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest(&image(1).digest())).is(202),
        restore(&image(1), json!({})).is(200).json("/tags", json!([])).json("/tagsKept", json!([])),
        get(&manifest(&image(1).digest())).is(200).gives(image(1).bytes),
        get(&manifest("v1")).is(404),
    ];

    what_was_not_deleted_is_not_restored: steps![
        restore(&image(1), json!({})).is(404).code("MANIFEST_UNKNOWN"),
        push_image("v1", &Image::plain(1)),
        restore(&image(1), json!({})).is(404).code("MANIFEST_UNKNOWN"),
        get(&format!("{DELETED}?last=x")).is(400).code("UNSUPPORTED"),
    ];

    a_manifest_is_restored_only_to_what_it_references: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest(&image(1).digest())).is(202),
        delete(&blob(&Image::plain(1).blobs[1].bytes)).is(202),
        restore(&image(1), json!({ "tags": true }))
            .is(400)
            .code("MANIFEST_BLOB_UNKNOWN")
            .json("/errors/0/detail/missing/0", Image::plain(1).blobs[1].digest()),
        get(&manifest("v1")).is(404),
        get(DELETED).is(200).json("/manifests/0/digest", image(1).digest()),
        push_blob(Image::plain(1).blobs[1].bytes.clone()),
        restore(&image(1), json!({ "tags": true })).is(200),
        get(&manifest("v1")).is(200).gives(image(1).bytes),
    ];

    /// By default an index need not have what it lists.
    what_an_index_lists_is_restored_before_it [ServerSpec::with(|s| s.references = ReferencePolicy::Strict)]: steps![
        push_image("a", &Image::plain(1)),
        push_manifest("v1", &index_of(&[image(1).descriptor()])),
        delete(&manifest(&index_of(&[image(1).descriptor()]).digest())).is(202),
        delete(&manifest(&image(1).digest())).is(202),
        restore(&index_of(&[image(1).descriptor()]), json!({ "tags": true })).is(400).code("MANIFEST_BLOB_UNKNOWN"),
        restore(&image(1), json!({})).is(200),
        restore(&index_of(&[image(1).descriptor()]), json!({ "tags": true })).is(200),
        get(&manifest("v1")).is(200),
    ];

    extensions_are_discovered: steps![
        get("/v2/_oci/ext/discover")
            .is(200)
            .has("Content-Type", "application/json")
            .json("/extensions/0/name", "_oci")
            .json("/extensions/0/endpoints", json!([
                "/v2/_oci/ext/discover", "/v2/{name}/_oci/ext/discover", "/v2/{name}/_oci/tag-history/{tag}",
            ]))
            .json("/extensions/1/name", "_jreg")
            .satisfies(|response| {
                let extensions = response.json()["extensions"].clone();
                let complete = |of: &Value| of["url"].is_string() && of["endpoints"].is_array();
                let all = extensions.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(complete));
                if all { Ok(()) } else { Err(extensions.to_string()) }
            }),
        head("/v2/_oci/ext/discover").is(200),
        get("/v2/a/b/_oci/ext/discover")
            .is(200)
            .json("/extensions/0/endpoints", json!(["/v2/a/b/_oci/ext/discover", "/v2/a/b/_oci/tag-history/{tag}"])),
        head("/v2/a/b/_oci/ext/discover").is(200),
        get("/v2/A/_oci/ext/discover").is(400).code("NAME_INVALID"),
        get("/v2/_oci/ext/other").is(404).code("UNSUPPORTED"),
    ];

    extensions_refuse_other_methods: steps![
        post("/v2/_oci/ext/discover").is(405).has("Allow", "GET, HEAD"),
        post(V1).is(405).has("Allow", "GET, HEAD"),
        post(OCI).is(405).has("Allow", "GET, HEAD"),
        post(DELETED).is(405).has("Allow", "GET, HEAD"),
        get(RESTORE_V1).is(405).has("Allow", "POST"),
        get(RESTORE_V1).method("OPTIONS").is(405).has("Allow", "POST"),
        get(&format!("{DELETED}/{}/restore", sha256("x"))).is(405).has("Allow", "POST"),
    ];
}

/// Pushes `v1` as so many images, deletes it, and pushes it once more.
async fn fill(client: &Client, moves: u64) {
    let mut scenario = Scenario::new("moved", client.clone());
    for seed in 1..=moves {
        scenario.run(push_image("v1", &Image::plain(seed))).await;
    }
    scenario.step(delete(&manifest("v1")).is(202)).await;
    scenario.step(push_manifest("v1", &image(1))).await;
}

#[test]
fn links_lead_through_the_whole_history() {
    const MOVES: u64 = 7;
    on_each(ServerSpec::default, |server| async move {
        let client = server.client();
        fill(&client, MOVES).await;
        let mut digests: Vec<Value> =
            (1..=MOVES).rev().map(|seed| image(seed).digest().into()).collect();
        digests.insert(0, Value::Null);
        digests.insert(0, image(1).digest().into());
        let of = |entries: Vec<Value>| -> Vec<Value> {
            entries.into_iter().map(|entry| entry["digest"].clone()).collect()
        };
        for n in 1..=10 {
            let first = format!("/v2/contract/moved/_jreg/tags/v1/history?n={n}");
            assert_eq!(of(follow(&client, &first, "/history").await.0), digests, "n={n}");
            let first = format!("/v2/contract/moved/_oci/tag-history/v1?n={n}");
            let (found, _) = follow(&client, &first, "/manifests").await;
            let mut described = digests.clone();
            described[1] = digests[2].clone();
            assert_eq!(of(found), described, "n={n}");
            // Filtered: the first, and the last of the moves.
            let first = format!("{first}&digest={}", image(1).digest());
            assert_eq!(follow(&client, &first, "/manifests").await.0.len(), 2, "n={n}");
        }
        server.stop().await;
    });
}

/// The draft: without a Link, the time of the last event of a page is where the next one begins.
#[test]
fn pages_of_the_draft_begin_before_a_time() {
    on_each(ServerSpec::default, |server| async move {
        let client = server.client();
        fill(&client, 3).await;
        let path = "/v2/contract/moved/_oci/tag-history/v1";
        let time = |of: &Value| {
            let time = &of["annotations"]["org.opencontainers.distribution.tag.timestamp"];
            time.as_str().unwrap().to_owned()
        };
        let all = client.get(path).await.json()["manifests"].as_array().unwrap().clone();
        assert_eq!(all.len(), 5);
        for (index, event) in all.iter().enumerate() {
            let before = client.get(&format!("{path}?before={}", time(event))).await.json();
            assert_eq!(before["manifests"], json!(all[index + 1..]), "{index}");
            let since = client.get(&format!("{path}?since={}", time(event))).await.json();
            assert_eq!(since["manifests"], json!(all[..index]), "{index}");
            let microsecond = time(event).replace('Z', "001Z");
            let before = client.get(&format!("{path}?before={microsecond}")).await.json();
            assert_eq!(before["manifests"], json!(all[index..]), "{index}");
        }
        let (first, last) = (time(&all[0]), time(&all[4]));
        let between = client.get(&format!("{path}?since={last}&before={first}")).await.json();
        assert_eq!(between["manifests"], json!(all[1..4]));
        server.stop().await;
    });
}

#[test]
fn links_lead_to_every_deleted_manifest() {
    on_each(ServerSpec::default, |server| async move {
        let client = server.client();
        let mut scenario = Scenario::new("deleted", client.clone());
        let mut expected = Vec::new();
        for seed in 1..=6 {
            scenario.run(push_image("v1", &Image::plain(seed))).await;
            scenario.step(delete(&manifest(&image(seed).digest())).is(202)).await;
            expected.push(image(seed).digest());
        }
        // Restored ones are no longer deleted.
        scenario.step(restore(&image(2), json!({})).is(200)).await;
        expected.retain(|digest| *digest != image(2).digest());
        expected.sort();
        for n in 1..=7 {
            let first = format!("/v2/contract/deleted/_jreg/deleted?n={n}");
            let (found, _) = follow(&client, &first, "/manifests").await;
            let found: Vec<_> =
                found.iter().map(|of| of["digest"].as_str().unwrap().to_owned()).collect();
            assert_eq!(found, expected, "n={n}");
        }
        server.stop().await;
    });
}
