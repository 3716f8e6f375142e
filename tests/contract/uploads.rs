//! Uploads: sessions, chunks, finish, cancel.

use jreg_testkit::{
    Scenario, Step, delete, get, head, patch, post, push_blob, put, sha256, sha512,
};

use crate::contract::blobs::blob;

/// Starts an upload whose location is kept as `{up}`.
fn begin() -> Step {
    post("/v2/{repo}/blobs/uploads/").is(202).keep("Location", "up")
}

/// Finishes `{up}` as the blob of these bytes.
fn close(bytes: &str) -> Step {
    put(&format!("{{up}}?digest={}", sha256(bytes)))
}

/// Sends a chunk with its Content-Range.
fn chunk(range: &str, bytes: &'static str) -> Step {
    patch("{up}")
        .header("Content-Range", range)
        .header("Content-Type", "application/octet-stream")
        .body(bytes)
}

fn uuid_in_location(response: &jreg_testkit::Response) -> Result<(), String> {
    let location = response.header("Location").unwrap_or_default();
    let id = location.rsplit('/').next().unwrap_or_default();
    let uuid = id.len() >= 36 && id.bytes().take(36).all(|b| b.is_ascii_hexdigit() || b == b'-');
    if uuid { Ok(()) } else { Err(format!("no UUID in {location:?}")) }
}

contract! {
    post_begins_an_upload: steps![
        post("/v2/{repo}/blobs/uploads/")
            .is(202)
            .has_part("Location", "/v2/{repo}/blobs/uploads/")
            .satisfies(uuid_in_location),
        post("/v2/{repo}/blobs/uploads/").header("Content-Length", "0").is(202),
    ];

    post_then_put: steps![
        begin(),
        close("hello").body("hello").is(201).has("Location", &blob("hello")).has("Docker-Content-Digest", &sha256("hello")),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    c07_fresh_upload_stands_at_the_start: steps![
        begin(),
        get("{up}").is(204).has("Range", "0-0").has("Location", "{up}"),
        head("{up}").is_one_of([204, 405]),
    ];

    c07_chunks_as_docker_sends_them: steps![
        begin(),
        patch("{up}").chunked(["hello", " wor"]).is(202).has("Range", "0-8").keep("Location", "up"),
        get("{up}").is(204).has("Range", "0-8").keep("Location", "up"),
        patch("{up}").chunked(["ld"]).is(202).has("Range", "0-10").keep("Location", "up"),
        close("hello world").is(201).has("Location", &blob("hello world")).has("Docker-Content-Digest", &sha256("hello world")),
        get(&blob("hello world")).is(200).gives("hello world"),
    ];

    c07_chunks_with_their_place: steps![
        begin(),
        chunk("0-4", "hello").is(202).has("Range", "0-4").keep("Location", "up"),
        chunk("5-10", " world").is(202).has("Range", "0-10").keep("Location", "up"),
        close("hello world").is(201),
        get(&blob("hello world")).is(200).gives("hello world"),
    ];

    c08_last_chunk_in_the_put: steps![
        begin(),
        chunk("0-4", "hello").is(202).keep("Location", "up"),
        close("hello world").header("Content-Range", "5-10").body(" world").is(201),
        get(&blob("hello world")).is(200).gives("hello world"),
        begin(),
        patch("{up}").chunked(["docker"]).is(202).keep("Location", "up"),
        close("docker style").chunked([" style"]).is(201),
        get(&blob("docker style")).is(200).gives("docker style"),
    ];

    c07_chunk_out_of_order_is_416_and_the_upload_lives: steps![
        begin(),
        chunk("5-10", " world").is(416).has_part("Location", "/v2/{repo}/blobs/uploads/"),
        chunk("0-4", "hello").is(202).has("Range", "0-4").keep("Location", "up"),
        chunk("9-10", "xx").is(416).has("Range", "0-4").has("Location", "{up}"),
        chunk("0-4", "hello").is(416).has("Range", "0-4"),
        chunk("4-5", "o ").is(416).has("Range", "0-4"),
        get("{up}").is(204).has("Range", "0-4"),
        close("hello world").header("Content-Range", "6-11").body(" world").is(416).has("Range", "0-4"),
        chunk("5-10", " world").is(202).has("Range", "0-10").keep("Location", "up"),
        close("hello world").is(201),
        get(&blob("hello world")).is(200).gives("hello world"),
    ];

    /// Some clients repeat the header of their last chunk without a body.
    closing_without_bytes_ignores_a_content_range: steps![
        begin(),
        chunk("0-4", "hello").is(202).keep("Location", "up"),
        close("hello").header("Content-Range", "0-4").is(201),
        begin(),
        chunk("0-4", "hello").is(202).keep("Location", "up"),
        close("hello").header("Content-Range", "5-4").is(201),
        begin(),
        close("").header("Content-Range", "bytes */0").is(201),
    ];

    a_parameter_may_be_repeated_but_not_with_another_value: steps![
        begin(),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}&digest={}", sha256("hello"), sha256("other"))).is(400).code("UNSUPPORTED"),
        put(&format!("{{up}}?digest={0}&digest={0}", sha256("hello"))).is(201),
        post("/v2/{repo}/blobs/uploads/?mount=&from=&digest-algorithm=").is(202),
    ];

    content_range_that_is_none: steps![
        begin(),
        chunk("bytes 0-4/5", "hello").is_one_of([202, 400, 416]),
        chunk("hello", "hello").is_one_of([400, 416]),
        chunk("4-0", "hello").is_one_of([400, 416]),
        chunk("0-99999999999999999999999", "hello").is_one_of([400, 416]),
        get("{up}").is(204),
    ];

    content_range_of_another_size_is_refused: steps![
        begin(),
        chunk("0-9", "hello").is(400).code("SIZE_INVALID"),
        chunk("0-2", "hello").is(400).code("SIZE_INVALID"),
        get("{up}").is(204),
    ];

    c05_first_location_still_works: steps![
        post("/v2/{repo}/blobs/uploads/").is(202).keep("Location", "first"),
        patch("{first}").body("hello").is(202),
        patch("{first}").body(" world").is(202).has("Range", "0-10"),
        put(&format!("{{first}}?digest={}", sha256("hello world"))).is(201),
    ];

    empty_chunk_changes_nothing: steps![
        begin(),
        patch("{up}").body("").is(202).keep("Location", "up"),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        patch("{up}").body("").is(202).has("Range", "0-4").keep("Location", "up"),
        close("hello").is(201),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    fixed_digest_mismatch_ends_the_upload_and_shows_nothing: steps![
        begin(),
        patch("{up}").body("hallo").is(202).keep("Location", "up"),
        close("hello").is(400).code("DIGEST_INVALID"),
        head(&blob("hello")).is(404),
        head(&blob("hallo")).is(404),
        get("{up}").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        close("hallo").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        head(&blob("hallo")).is(404),
    ];

    put_of_other_bytes_leaves_nothing: steps![
        begin(),
        close("hello").body("hallo").is(400).code("DIGEST_INVALID"),
        head(&blob("hello")).is(404),
        head(&blob("hallo")).is(404),
    ];

    put_needs_a_digest: steps![
        begin(),
        patch("{up}").body("hello").is(202),
        put("{up}").is(400).code("DIGEST_INVALID"),
        put("{up}?digest=").is(400).code("DIGEST_INVALID"),
        put("{up}?digest=sha256:bad").is(400).code("DIGEST_INVALID"),
        put("{up}?digest=md5:d41d8cd98f00b204e9800998ecf8427e").is(400).code("DIGEST_INVALID"),
        get("{up}").is(204).has("Range", "0-4"),
        close("hello").is(201),
    ];

    closing_again_is_201: steps![
        begin(),
        patch("{up}").body("hello").is(202),
        close("hello").is(201),
        close("hello").is(201).has("Docker-Content-Digest", &sha256("hello")),
        close("other").is_one_of([400, 404]),
        get(&blob("hello")).is(200).gives("hello"),
        patch("{up}").body("more").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        get("{up}").is(404).code("BLOB_UPLOAD_UNKNOWN"),
    ];

    c20_cancelling_is_204_and_again: steps![
        begin(),
        patch("{up}").body("hello").is(202),
        delete("{up}").is(204),
        delete("{up}").is(204),
        get("{up}").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        patch("{up}").body("x").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        close("hello").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        head(&blob("hello")).is(404),
    ];

    c20_cancelling_before_the_first_byte: steps![
        begin(),
        delete("{up}").is(204),
        patch("{up}").body("hello").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        close("hello").body("hello").is(404).code("BLOB_UPLOAD_UNKNOWN"),
    ];

    cancelling_what_is_finished_keeps_the_blob: steps![
        begin(),
        patch("{up}").body("hello").is(202),
        close("hello").is(201),
        delete("{up}").is_one_of([204, 404]),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    uploads_that_never_were_are_404: steps![
        get("/v2/{repo}/blobs/uploads/not-an-upload").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        patch("/v2/{repo}/blobs/uploads/not-an-upload").body("x").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        put(&format!("/v2/{{repo}}/blobs/uploads/not-an-upload?digest={}", sha256("x"))).body("x").is(404).code("BLOB_UPLOAD_UNKNOWN"),
        delete("/v2/{repo}/blobs/uploads/not-an-upload").is_one_of([204, 404]),
        get("/v2/{repo}/blobs/uploads/00000000-0000-0000-0000-000000000000").is(404),
        get("/v2/{repo}/blobs/uploads/6ba7b810-9dad-41d1-80b4-00c04fd430c8").is(404),
        get("/v2/{repo}/blobs/uploads/ffffffff-ffff-7fff-bfff-ffffffffffff").is(404),
    ];

    c22_sha512_by_chunks: steps![
        post("/v2/{repo}/blobs/uploads/?digest-algorithm=sha512").is(202).keep("Location", "up"),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}", sha512("hello"))).is(201).has("Docker-Content-Digest", &sha512("hello")),
        get(&format!("/v2/{{repo}}/blobs/{}", sha512("hello"))).is(200).gives("hello"),
    ];

    c22_sha512_by_chunks_without_asking: steps![
        begin(),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}", sha512("hello world"))).body(" world").is(201),
        get(&format!("/v2/{{repo}}/blobs/{}", sha512("hello world"))).is(200).gives("hello world"),
        begin(),
        patch("{up}").body("hallo").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}", sha512("hello"))).is(400).code("DIGEST_INVALID"),
        head(&format!("/v2/{{repo}}/blobs/{}", sha512("hello"))).is(404),
        begin(),
        put(&format!("{{up}}?digest={}", sha512("at once"))).body("at once").is(201),
        get(&format!("/v2/{{repo}}/blobs/{}", sha512("at once"))).is(200).gives("at once"),
    ];

    sha256_after_asking_for_sha512: steps![
        post("/v2/{repo}/blobs/uploads/?digest-algorithm=sha512").is(202).keep("Location", "up"),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        close("hello").is(201),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    digest_algorithm_that_is_unknown_is_400: steps![
        post("/v2/{repo}/blobs/uploads/?digest-algorithm=md5").is(400).code("DIGEST_INVALID"),
        post("/v2/{repo}/blobs/uploads/?digest-algorithm=sha256").is(202),
    ];

    many_chunks_make_one_blob: {
        let mut steps = vec![begin()];
        for _ in 0..40 {
            steps.push(patch("{up}").body("0123456789").is(202).keep("Location", "up"));
        }
        steps.push(close(&"0123456789".repeat(40)).is(201));
        steps.push(get(&blob("0123456789".repeat(40))).is(200).gives("0123456789".repeat(40)));
        steps
    };

    upload_of_what_is_there_already: steps![
        push_blob("hello"),
        begin(),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        close("hello").is(201),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    closing_digest_in_percent_encoding: steps![
        begin(),
        patch("{up}").body("hello").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}", sha256("hello").replace(':', "%3A"))).is(201),
    ];
}

#[test]
fn upload_of_another_repository_is_404() {
    crate::contract::on_each(Default::default, |server| async move {
        let mut scenario = Scenario::new("mine", server.client());
        scenario
            .run(steps![begin(), patch("{up}").body("hello").is(202).keep("Location", "up")])
            .await;
        let elsewhere = scenario.kept("up").replace("contract/mine", "contract/other");
        scenario
            .run(steps![
                get(&elsewhere).is(404).code("BLOB_UPLOAD_UNKNOWN"),
                patch(&elsewhere).body("x").is(404).code("BLOB_UPLOAD_UNKNOWN"),
                put(&format!("{elsewhere}?digest={}", sha256("hello")))
                    .is(404)
                    .code("BLOB_UPLOAD_UNKNOWN"),
                close("hello").is(201),
            ])
            .await;
        server.stop().await;
    });
}
