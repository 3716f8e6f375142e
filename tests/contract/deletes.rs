//! Deletes of tags, manifests and blobs, and disabled deletes.

use jreg_testkit::{
    Image, Manifest, ServerSpec, delete, get, head, index_of, post, push_blob, push_image,
    push_manifest, sha256,
};
use serde_json::json;

use crate::contract::blobs::blob;
use crate::contract::manifests::manifest;

fn image() -> Manifest {
    Image::plain(1).manifest
}

contract! {
    c13_delete_by_digest_removes_its_tags: steps![
        push_image("v1", &Image::plain(1)),
        push_manifest("v2", &image()),
        push_image("other", &Image::plain(2)),
        delete(&manifest(&image().digest())).is(202),
        get(&manifest(&image().digest())).is(404).code("MANIFEST_UNKNOWN"),
        get(&manifest("v1")).is(404).code("MANIFEST_UNKNOWN"),
        get(&manifest("v2")).is(404),
        get(&manifest("other")).is(200),
        get("/v2/{repo}/tags/list").is(200).json("/tags", json!(["other"])),
    ];

    c13_delete_by_tag_keeps_the_manifest: steps![
        push_image("v1", &Image::plain(1)),
        push_manifest("v2", &image()),
        delete(&manifest("v1")).is(202),
        get(&manifest("v1")).is(404).code("MANIFEST_UNKNOWN"),
        get(&manifest("v2")).is(200).gives(image().bytes),
        get(&manifest(&image().digest())).is(200).gives(image().bytes),
        delete(&manifest("v2")).is(202),
        get(&manifest(&image().digest())).is(200).gives(image().bytes),
        get("/v2/{repo}/tags/list").is(200).json("/tags", json!([])),
    ];

    c13_tag_that_moved_away_survives_the_delete_of_where_it_was: steps![
        push_image("v1", &Image::plain(1)),
        push_image("v1", &Image::plain(2)),
        delete(&manifest(&image().digest())).is(202),
        get(&manifest("v1")).is(200).gives(Image::plain(2).manifest.bytes),
    ];

    c13_delete_of_an_index_entry: steps![
        push_image("v1", &Image::plain(1)),
        push_manifest("index", &index_of(&[image().descriptor()])),
        delete(&manifest(&image().digest())).is(202),
        get(&manifest("index")).is(200),
        get(&manifest(&image().digest())).is(404),
    ];

    c13_deleting_again_is_404: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest("v1")).is(202),
        delete(&manifest("v1")).is(404).code("MANIFEST_UNKNOWN"),
        delete(&manifest(&image().digest())).is(202),
        delete(&manifest(&image().digest())).is(404).code("MANIFEST_UNKNOWN"),
        delete("/v2/no/such/manifests/v1").is(404),
        delete(&format!("/v2/no/such/manifests/{}", sha256("x"))).is(404),
    ];

    c08_blob_delete_is_202: steps![
        push_blob("hello"),
        delete(&blob("hello")).is(202),
        get(&blob("hello")).is(404).code("BLOB_UNKNOWN"),
        head(&blob("hello")).is(404),
        delete(&blob("hello")).is(404).code("BLOB_UNKNOWN"),
        delete("/v2/{repo}/blobs/sha256:bad").is(400).code("DIGEST_INVALID"),
    ];

    deleted_content_can_be_pushed_again: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest(&image().digest())).is(202),
        push_manifest("v1", &image()),
        get(&manifest("v1")).is(200).gives(image().bytes),
        push_blob("hello"),
        delete(&blob("hello")).is(202),
        push_blob("hello"),
        get(&blob("hello")).is(200).gives("hello"),
        delete(&blob("hello")).is(202),
        post("/v2/{repo}/blobs/uploads/").is(202).keep("Location", "up"),
        jreg_testkit::patch("{up}").body("hello").is(202),
        jreg_testkit::put(&format!("{{up}}?digest={}", sha256("hello"))).is(201),
        get(&blob("hello")).is(200).gives("hello"),
    ];

    fixed_a_deleted_layer_is_missed_at_the_next_push: steps![
        push_image("v1", &Image::plain(1)),
        delete(&blob(&Image::plain(1).blobs[1].bytes)).is(202),
        push_manifest("v2", &image()).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
        get(&manifest("v1")).is(200).gives(image().bytes),
        push_blob(Image::plain(1).blobs[1].bytes.clone()),
        push_manifest("v2", &image()),
    ];

    c12_repository_without_tags_is_still_there: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest("v1")).is(202),
        get("/v2/{repo}/tags/list").is(200).json("/tags", json!([])).json("/name", "{repo}"),
    ];

    c13_deletes_switched_off [ServerSpec::with(|s| s.deletes = false)]: steps![
        push_image("v1", &Image::plain(1)),
        delete(&manifest("v1")).is(405).code("UNSUPPORTED"),
        delete(&manifest(&image().digest())).is(405).code("UNSUPPORTED"),
        delete(&blob(&Image::plain(1).blobs[0].bytes)).is(405).code("UNSUPPORTED"),
        get(&manifest("v1")).is(200).gives(image().bytes),
        get(&blob(&Image::plain(1).blobs[0].bytes)).is(200),
        post("/v2/{repo}/blobs/uploads/").is(202).keep("Location", "up"),
        delete("{up}").is(204),
    ];
}
