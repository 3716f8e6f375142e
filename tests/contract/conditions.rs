//! Conditional requests on manifests: cheap polling, and safe promotion of tags.

use jreg_testkit::{Image, Manifest, delete, get, head, index_of, push_image, push_manifest};

use crate::contract::manifests::manifest;

fn one() -> Manifest {
    index_of(&[Image::plain(1).manifest.descriptor()])
}

fn two() -> Manifest {
    index_of(&[Image::plain(2).manifest.descriptor()])
}

contract! {
    unchanged_manifest_is_304: steps![
        push_image("v1", &Image::plain(1)),
        get(&manifest("v1")).is(200).keep("ETag", "etag"),
        get(&manifest("v1")).header("If-None-Match", "{etag}").is(304).has("ETag", "{etag}").gives(""),
        head(&manifest("v1")).header("If-None-Match", "{etag}").is(304),
        get(&manifest("v1")).header("If-None-Match", "\"a\", {etag}").is(304),
        get(&manifest("v1")).header("If-None-Match", "W/{etag}").is(304),
        get(&manifest("v1")).header("If-None-Match", "*").is(304),
        get(&manifest("v1")).header("If-None-Match", "\"a\"").is(200),
        push_image("v1", &Image::plain(2)),
        get(&manifest("v1")).header("If-None-Match", "{etag}").is(200).gives(Image::plain(2).manifest.bytes),
        get(&manifest(&Image::plain(1).manifest.digest())).header("If-None-Match", "{etag}").is(304),
    ];

    put_only_if_absent: steps![
        push_manifest("v1", &one()).header("If-None-Match", "*"),
        push_manifest("v1", &two()).header("If-None-Match", "*").is(412),
        get(&manifest("v1")).is(200).gives(one().bytes),
        push_manifest("v2", &two()).header("If-None-Match", "*"),
    ];

    c23_put_only_if_unchanged: steps![
        push_manifest("v1", &one()),
        get(&manifest("v1")).is(200).keep("ETag", "first"),
        push_manifest("v1", &two()).header("If-Match", "{first}"),
        get(&manifest("v1")).is(200).gives(two().bytes).keep("ETag", "second"),
        push_manifest("v1", &one()).header("If-Match", "{first}").is(412),
        get(&manifest("v1")).is(200).gives(two().bytes),
        push_manifest("v1", &one()).header("If-Match", "\"x\", {second}"),
        get(&manifest("v1")).is(200).gives(one().bytes),
    ];

    put_only_if_present: steps![
        push_manifest("v1", &one()).header("If-Match", "*").is(412),
        get(&manifest("v1")).is(404),
        push_manifest("v1", &one()),
        push_manifest("v1", &two()).header("If-Match", "*"),
        get(&manifest("v1")).is(200).gives(two().bytes),
        push_manifest("v9", &two()).header("If-Match", "\"x\"").is(412),
        get(&manifest("v9")).is(404),
    ];

    if_match_is_never_weak: steps![
        push_manifest("v1", &one()),
        get(&manifest("v1")).is(200).keep("ETag", "etag"),
        push_manifest("v1", &two()).header("If-Match", "W/{etag}").is(412),
    ];

    delete_only_if_unchanged: steps![
        push_manifest("v1", &one()),
        get(&manifest("v1")).is(200).keep("ETag", "first"),
        push_manifest("v1", &two()),
        delete(&manifest("v1")).header("If-Match", "{first}").is(412),
        get(&manifest("v1")).is(200).gives(two().bytes).keep("ETag", "second"),
        delete(&manifest("v1")).header("If-Match", "{second}").is(202),
        get(&manifest("v1")).is(404),
    ];

    delete_under_if_none_match: steps![
        push_manifest("v1", &one()),
        delete(&manifest("v1")).header("If-None-Match", "*").is(412),
        get(&manifest("v1")).is(200),
    ];
}
