//! Mounting a blob from another repository (end-11).

use jreg_testkit::{Step, delete, get, head, post, push_blob_to, put, sha256, sha512};

use crate::contract::blobs::blob;

fn mount(digest: &str, from: &str) -> Step {
    post(&format!("/v2/{{repo}}/blobs/uploads/?mount={digest}&from={from}"))
}

contract! {
    c06_mount_hit_is_201: steps![
        push_blob_to("source/a", "hello"),
        mount(&sha256("hello"), "source/a")
            .is(201)
            .has("Location", &blob("hello"))
            .has("Docker-Content-Digest", &sha256("hello")),
        get(&blob("hello")).is(200).gives("hello"),
        mount(&sha256("hello"), "source/a").is(201),
    ];

    c06_mount_of_sha512: steps![
        post(&format!("/v2/source/a/blobs/uploads/?digest={}", sha512("hello"))).body("hello").is(201),
        mount(&sha512("hello"), "source/a").is(201).has("Docker-Content-Digest", &sha512("hello")),
        get(&format!("/v2/{{repo}}/blobs/{}", sha512("hello"))).is(200).gives("hello"),
    ];

    c06_mount_miss_begins_an_upload: steps![
        push_blob_to("source/a", "other"),
        mount(&sha256("hello"), "source/a").is(202).keep("Location", "up"),
        head(&blob("hello")).is(404),
        put(&format!("{{up}}?digest={}", sha256("hello"))).body("hello").is(201),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    c06_mount_from_a_repository_that_is_not_there: steps![
        mount(&sha256("hello"), "no/such").is(202).keep("Location", "up"),
        put(&format!("{{up}}?digest={}", sha256("hello"))).body("hello").is(201),
    ];

    c06_mount_without_from_finds_a_holder: steps![
        push_blob_to("source/a", "hello"),
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={}", sha256("hello"))).is(201).has("Location", &blob("hello")),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    c06_mount_without_from_and_holder: steps![
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={}", sha256("hello"))).is(202),
        head(&blob("hello")).is(404),
    ];

    c06_mount_without_from_after_the_holder_is_gone: steps![
        push_blob_to("source/a", "hello"),
        delete(&format!("/v2/source/a/blobs/{}", sha256("hello"))).is(202),
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={}", sha256("hello"))).is(202),
        mount(&sha256("hello"), "source/a").is(202),
        head(&blob("hello")).is(404),
    ];

    mount_from_itself: steps![
        push_blob_to("{repo}", "hello"),
        mount(&sha256("hello"), "{repo}").is(201),
        mount(&sha256("nothing"), "{repo}").is(202),
    ];

    mounted_blob_outlives_its_source: steps![
        push_blob_to("source/a", "hello"),
        mount(&sha256("hello"), "source/a").is(201),
        delete(&format!("/v2/source/a/blobs/{}", sha256("hello"))).is(202),
        get(&blob("hello")).is(200).gives("hello"),
        get(&format!("/v2/source/a/blobs/{}", sha256("hello"))).is(404),
    ];

    mount_of_a_malformed_digest_is_400: steps![
        mount("sha256:bad", "source/a").is(400).code("DIGEST_INVALID"),
        mount("md5:d41d8cd98f00b204e9800998ecf8427e", "source/a").is(400).code("DIGEST_INVALID"),
    ];

    mount_from_a_malformed_name: steps![
        mount(&sha256("hello"), "NOT/valid").is_one_of([202, 400]),
        mount(&sha256("hello"), "../../etc").is_one_of([202, 400]),
        mount(&sha256("hello"), "").is_one_of([202, 400]),
        head(&blob("hello")).is(404),
    ];

    mount_with_an_encoded_name: steps![
        push_blob_to("source/a", "hello"),
        mount(&sha256("hello").replace(':', "%3A"), "source%2Fa").is(201),
    ];
}
