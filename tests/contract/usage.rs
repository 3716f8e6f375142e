//! What repositories hold: `_jreg/usage`.

use jreg_testkit::{Image, get, head, index_of, post, push_image, put};

contract! {
    usage_of_a_repository: steps![
        push_image("v1", &Image::plain(1)),
        get("/v2/_jreg/usage?last=contract").is(200).has("Content-Type", "application/json").satisfies(|response| {
            let usage = response.json();
            let of = |field: &str| usage["repositories"][0][field].clone();
            let image = Image::plain(1);
            let blobs: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
            let is_right = of("blobBytes") == blobs
                && of("manifestBytes") == image.manifest.bytes.len()
                && of("logicalBytes") == blobs + image.manifest.bytes.len()
                && (of("manifests") == 1 && of("blobs") == 3)
                && (of("uploads") == 0 && of("deletedBytes") == 0);
            if is_right { Ok(()) } else { Err(usage.to_string()) }
        }),
        head("/v2/_jreg/usage").is(200),
        post("/v2/_jreg/usage").is(405).has("Allow", "GET, HEAD"),
    ];

    usage_in_pages: steps![
        ["p/a", "p/b", "p/c"].iter().map(|name| put(&format!("/v2/{name}/manifests/v1"))
            .header("Content-Type", jreg_testkit::media::INDEX).body(index_of(&[]).bytes).is(201)).collect::<Vec<_>>(),
        get("/v2/_jreg/usage?n=2&last=p").is(200).json("/repositories/0/repository", "p/a")
            .has_part("Link", "</v2/_jreg/usage?").has_part("Link", "last=p/b").has_part("Link", "rel=\"next\""),
        get("/v2/_jreg/usage?n=1&last=p/b").is(200).json("/repositories/0/repository", "p/c"),
        get("/v2/_jreg/usage?n=x").is(400),
    ];
}
