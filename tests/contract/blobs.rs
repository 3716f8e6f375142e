//! Blobs: existence, pull, monolithic push.

use std::sync::LazyLock;

use bytes::Bytes;
use futures::future::join_all;
use jreg_testkit::{
    Client, Image, ImageSpec, Request, Rng, ServerSpec, StoreKind, TestServer, get, head, post,
    push_blob, put, sha256, sha512,
};

/// The path of a blob in the scenario's repository.
pub(crate) fn blob(bytes: impl AsRef<[u8]>) -> String {
    format!("/v2/{{repo}}/blobs/{}", sha256(bytes))
}

/// The target of a push of these bytes in one request.
fn single_post(bytes: impl AsRef<[u8]>) -> String {
    format!("/v2/{{repo}}/blobs/uploads/?digest={}", sha256(bytes))
}

/// Bytes of more than one part of every store that tests use.
fn large() -> Bytes {
    static LARGE: LazyLock<Bytes> = LazyLock::new(|| Rng::new(5).bytes(20 * 1024 * 1024));
    LARGE.clone()
}

contract! {
    c01_single_post_returns_digest_and_location: steps![
        post(&single_post("hello"))
            .body("hello")
            .is(201)
            .has("Docker-Content-Digest", &sha256("hello"))
            .has("Location", &blob("hello")),
        get(&blob("hello")).is(200).gives("hello").has("Docker-Content-Digest", &sha256("hello")),
    ];

    c01_head_has_length_type_and_digest: steps![
        push_blob("hello"),
        head(&blob("hello"))
            .is(200)
            .has("Content-Length", "5")
            .has("Content-Type", "application/octet-stream")
            .has("Docker-Content-Digest", &sha256("hello"))
            .gives(""),
    ];

    c02_absent_blob_is_404: steps![
        head(&blob("nothing")).is(404),
        get(&blob("nothing")).is(404).code("BLOB_UNKNOWN"),
        push_blob("something"),
        head(&blob("nothing")).is(404),
        get(&blob("nothing")).is(404).code("BLOB_UNKNOWN"),
    ];

    c03_content_is_never_a_redirect_here: steps![
        push_blob("hello"),
        head(&blob("hello")).is(200).lacks("Location"),
        get(&blob("hello")).is(200).lacks("Location"),
    ];

    blob_of_one_repository_is_not_in_another: steps![
        push_blob("hello"),
        get(&format!("/v2/elsewhere/blobs/{}", sha256("hello"))).is(404).code("BLOB_UNKNOWN"),
    ];

    blobs_may_be_cached_for_ever: steps![
        push_blob("hello"),
        get(&blob("hello"))
            .is(200)
            .has_part("Cache-Control", "immutable")
            .has("Accept-Ranges", "bytes")
            .has_part("ETag", &sha256("hello")),
        head(&blob("hello")).is(200).has("Accept-Ranges", "bytes"),
    ];

    c14_blobs_are_never_compressed: steps![
        push_blob("hello".repeat(1000)),
        get(&blob("hello".repeat(1000)))
            .header("Accept-Encoding", "zstd, gzip, br, deflate")
            .is(200)
            .gives("hello".repeat(1000))
            .has("Content-Length", "5000")
            .lacks("Content-Encoding"),
    ];

    blob_larger_than_a_part: steps![
        push_blob(large()),
        get(&blob(large())).is(200).gives(large()),
        get(&blob(large())).header("Range", "bytes=20971519-").is(206).gives(large().slice(20_971_519..)),
        push_blob(large()),
        get(&blob(large())).is(200).gives(large()),
    ];

    blob_without_a_byte: steps![
        push_blob(""),
        get(&blob("")).is(200).gives("").has("Content-Length", "0"),
        head(&blob("")).is(200).has("Content-Length", "0"),
        get(&blob("")).header("Range", "bytes=0-").is_one_of([200, 416]),
        post("/v2/{repo}/blobs/uploads/").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}", sha256(""))).is(201).has("Location", &blob("")),
    ];

    pushing_a_blob_again_is_201: steps![
        push_blob("hello"),
        push_blob("hello"),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    same_blob_in_two_repositories: steps![
        push_blob("hello"),
        post(&format!("/v2/second/blobs/uploads/?digest={}", sha256("hello"))).body("hello").is(201),
        get(&format!("/v2/second/blobs/{}", sha256("hello"))).is(200).gives("hello"),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    single_post_of_other_bytes_leaves_nothing: steps![
        post(&single_post("hello")).body("hallo").is(400).code("DIGEST_INVALID"),
        head(&blob("hello")).is(404),
        head(&blob("hallo")).is(404),
    ];

    /// Possession is proven by bytes, even if another repository has the content.
    single_post_of_other_bytes_is_refused_though_content_is_known: steps![
        post(&format!("/v2/second/blobs/uploads/?digest={}", sha256(large()))).body(large()).is(201),
        post(&single_post(large())).body("not these bytes").is(400).code("DIGEST_INVALID"),
        head(&blob(large())).is(404),
    ];

    single_post_chunked_without_length: steps![
        post(&single_post("hello world")).chunked(["hello", " ", "world"]).is(201),
        get(&blob("hello world")).is(200).gives("hello world"),
    ];

    c22_sha512_is_its_own_key: steps![
        post(&format!("/v2/{{repo}}/blobs/uploads/?digest={}", sha512("hello")))
            .body("hello")
            .is(201)
            .has("Docker-Content-Digest", &sha512("hello"))
            .has("Location", &format!("/v2/{{repo}}/blobs/{}", sha512("hello"))),
        get(&format!("/v2/{{repo}}/blobs/{}", sha512("hello")))
            .is(200)
            .gives("hello")
            .has("Docker-Content-Digest", &sha512("hello")),
        head(&format!("/v2/{{repo}}/blobs/{}", sha512("hello"))).is(200),
        head(&blob("hello")).is(404),
        post(&format!("/v2/{{repo}}/blobs/uploads/?digest={}", sha512("hello"))).body("x").is(400).code("DIGEST_INVALID"),
    ];

    c22_malformed_digests_are_400: steps![
        get("/v2/{repo}/blobs/sha256:baddigeststring").is(400).code("DIGEST_INVALID"),
        head("/v2/{repo}/blobs/sha256:baddigeststring").is(400),
        get(&format!("/v2/{{repo}}/blobs/{}", sha256("a").to_uppercase())).is(400),
        get(&format!("/v2/{{repo}}/blobs/{}0", sha256("a"))).is(400).code("DIGEST_INVALID"),
        get("/v2/{repo}/blobs/md5:d41d8cd98f00b204e9800998ecf8427e").is_one_of([400, 404]),
        get("/v2/{repo}/blobs/latest").is_one_of([400, 404]),
        post("/v2/{repo}/blobs/uploads/?digest=sha256:bad").body("x").is(400).code("DIGEST_INVALID"),
        post("/v2/{repo}/blobs/uploads/?digest=md5:d41d8cd98f00b204e9800998ecf8427e").body("").is(400).code("DIGEST_INVALID"),
        post("/v2/{repo}/blobs/uploads/?digest=").body("x").is(400).code("DIGEST_INVALID"),
    ];

    percent_encoded_colon_is_a_colon: steps![
        post(&single_post("hello").replace("sha256:", "sha256%3A")).body("hello").is(201),
        get(&blob("hello").replace("sha256:", "sha256%3A")).is(200).gives("hello"),
        get(&blob("hello").replace("sha256:", "sha256%3a")).is(200).gives("hello"),
    ];

    blob_conditional_get: steps![
        push_blob("hello"),
        get(&blob("hello")).is(200).keep("ETag", "etag"),
        get(&blob("hello")).header("If-None-Match", "{etag}").is(304).has("ETag", "{etag}"),
        head(&blob("hello")).header("If-None-Match", "{etag}").is(304),
        get(&blob("hello")).header("If-None-Match", "\"other\", {etag}").is(304),
        get(&blob("hello")).header("If-None-Match", "W/{etag}").is(304),
        get(&blob("hello")).header("If-None-Match", "*").is(304),
        get(&blob("hello")).header("If-None-Match", "\"other\"").is(200).gives("hello"),
        get(&blob("nothing")).header("If-None-Match", "*").is(404),
    ];

    proxying_parameter_is_ignored: steps![
        push_blob("hello"),
        get(&format!("{}?ns=docker.io", blob("hello"))).is(200).gives("hello"),
    ];
}

/// Number of concurrent clients, and of their iterations.
const CLIENTS: usize = 10;
const ROUNDS: usize = 4;

/// Sends a request that must not fail.
async fn expect(client: &Client, request: Request, status: u16) -> String {
    let named = format!("{} {}", request.method, request.target);
    let response = client.send(request).await;
    let body = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, status, "{named}: {body}");
    response.header("Location").unwrap_or_default().to_owned()
}

/// Pushes a blob in one of the ways of clients.
async fn push_in_some_way(client: &Client, name: &str, bytes: &Bytes, way: usize) {
    let (uploads, digest) = (format!("/v2/{name}/blobs/uploads/"), sha256(bytes));
    if way == 0 {
        let post = Request::new("POST", format!("{uploads}?digest={digest}")).body(bytes.clone());
        expect(client, post, 201).await;
        return;
    }
    let location = expect(client, Request::new("POST", uploads), 202).await;
    let last = Request::new("PUT", format!("{location}?digest={digest}"));
    if way == 1 {
        expect(client, last.body(bytes.clone()), 201).await;
        return;
    }
    let chunks = bytes.chunks(100_000).map(Bytes::copy_from_slice);
    expect(client, Request::new("PATCH", location).chunked(chunks), 202).await;
    expect(client, last, 201).await;
}

/// Pushes an image to a repository of its own, pulls it, and deletes all of it.
async fn push_and_delete(client: &Client, name: &str, image: &Image, way: usize) {
    for (index, blob) in image.blobs.iter().enumerate() {
        push_in_some_way(client, name, &blob.bytes, (way + index) % 3).await;
    }
    let (bytes, media_type) = (image.manifest.bytes.clone(), image.manifest.media_type.clone());
    let manifest = |reference: &str| format!("/v2/{name}/manifests/{reference}");
    let put = Request::new("PUT", manifest("v1")).header("Content-Type", media_type).body(bytes);
    expect(client, put, 201).await;
    expect(client, Request::new("GET", manifest("v1")), 200).await;
    for blob in &image.blobs {
        let target = format!("/v2/{name}/blobs/{}", blob.digest());
        let pulled = client.get(&target).await;
        assert_eq!((pulled.status, &pulled.body), (200, &blob.bytes), "{target}");
    }
    expect(client, Request::new("DELETE", manifest(&image.manifest.digest())), 202).await;
    for blob in &image.blobs {
        let target = format!("/v2/{name}/blobs/{}", blob.digest());
        expect(client, Request::new("DELETE", target), 202).await;
    }
}

/// Ephemeral CI repositories, also the pattern of zot's benchmark `zb`: the copy that a push would
/// share is deleted at any time, and no request may fail because of it.
#[test]
fn fixed_same_layers_pushed_and_deleted_by_many_clients() {
    let image = ImageSpec { layers: 3, layer_bytes: 300_000, ..ImageSpec::default() }.build();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for store in [StoreKind::Memory, StoreKind::Folder, StoreKind::Bucket] {
        runtime.block_on(async {
            let server = TestServer::start(ServerSpec::default().store(store)).await;
            let clients = (0..CLIENTS).map(|number| {
                let (client, image) = (server.client(), image.clone());
                tokio::spawn(async move {
                    for round in 0..ROUNDS {
                        let name = format!("ci/job-{number}/{round}");
                        push_and_delete(&client, &name, &image, number + round).await;
                    }
                })
            });
            for ended in join_all(clients).await {
                ended.unwrap();
            }
            server.stop().await;
        });
    }
}
