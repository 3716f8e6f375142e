//! Manifests: push and pull, by tag and by digest, of every kind that tools produce.

use bytes::Bytes;
use jreg_registry::ReferencePolicy;
use jreg_testkit::{
    Blob, Image, ImageSpec, Manifest, Response, Rng, ServerSpec, Step, delete, get, head, index_of,
    media, push_blob, push_image, push_manifest, put, sha256, sha512,
};
use serde_json::{Value, json};

/// The path of a manifest in the scenario's repository.
pub(crate) fn manifest(reference: &str) -> String {
    format!("/v2/{{repo}}/manifests/{reference}")
}

/// The expected response to a pull of this manifest.
fn pulls(reference: &str, expected: &Manifest) -> Step {
    get(&manifest(reference))
        .is(200)
        .gives(expected.bytes.clone())
        .has("Content-Type", &expected.media_type)
        .has("Docker-Content-Digest", &expected.digest())
}

fn image() -> Image {
    Image::plain(1)
}

/// A manifest of exactly this many bytes, without references.
fn sized(len: usize) -> Manifest {
    let of = |padding: usize| {
        let annotations = json!({"padding": "x".repeat(padding)});
        Manifest::compact(
            media::INDEX,
            &json!({"schemaVersion": 2, "mediaType": media::INDEX,
            "manifests": [], "annotations": annotations}),
        )
    };
    let padded = of(len - of(0).bytes.len());
    assert_eq!(padded.bytes.len(), len);
    padded
}

const LIMIT: usize = 4 * 1024 * 1024;

/// An image manifest with these layers, whose configuration is `config`.
fn image_of(config: &Blob, layers: &[Value]) -> Manifest {
    Manifest::tabbed(
        media::MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": media::MANIFEST,
        "config": config.descriptor(), "layers": layers}),
    )
}

fn config() -> Blob {
    Blob { media_type: media::CONFIG, bytes: Bytes::from_static(b"{\"os\":\"linux\"}") }
}

fn absent_layer(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": sha256("absent"), "size": 6,
        "urls": ["https://example.org/layer"]})
}

fn lists_tags(expected: &'static [&'static str]) -> impl Fn(&Response) -> Result<(), String> {
    move |response| {
        let mut tags: Vec<_> = response
            .header_all("OCI-Tag")
            .flat_map(|value| value.split(','))
            .map(|tag| tag.trim().to_owned())
            .collect();
        tags.sort();
        if tags == expected { Ok(()) } else { Err(format!("OCI-Tag {tags:?}, not {expected:?}")) }
    }
}

fn tag_query(count: usize) -> String {
    (0..count).map(|n| format!("tag=t{n:04}")).collect::<Vec<_>>().join("&")
}

contract! {
    /// A tag may be moved to a manifest of another type: an image, then its index.
    a_tag_may_change_its_media_type: {
        let image = Image::plain(1);
        let index = index_of(&[image.manifest.descriptor()]);
        steps![
            push_image("latest", &image),
            get(&manifest("latest")).is(200).has("Content-Type", &image.manifest.media_type),
            push_manifest("latest", &index),
            get(&manifest("latest")).is(200).has("Content-Type", media::INDEX).gives(index.bytes.clone()),
            push_manifest("latest", &image.manifest),
            head(&manifest("latest")).is(200).has("Content-Type", &image.manifest.media_type),
        ]
    };

    c01_push_by_tag_is_201_with_digest: steps![
        push_image("v1", &image())
            .into_iter()
            .map(|step| step.keep("Location", "at").keep("Docker-Content-Digest", "digest"))
            .collect::<Vec<_>>(),
        get("{at}").is(200).gives(image().manifest.bytes).has("Docker-Content-Digest", "{digest}"),
        pulls("v1", &image().manifest),
        pulls(&image().manifest.digest(), &image().manifest),
        pulls("{digest}", &image().manifest),
    ];

    c01_head_of_a_manifest: steps![
        push_image("v1", &image()),
        head(&manifest("v1"))
            .is(200)
            .has("Docker-Content-Digest", &image().manifest.digest())
            .has("Content-Type", media::MANIFEST)
            .has("Content-Length", &image().manifest.bytes.len().to_string()),
        head(&manifest(&image().manifest.digest())).is(200),
    ];

    c02_absent_manifest_is_404: steps![
        head(&manifest("v1")).is(404),
        get(&manifest("v1")).is(404).code("MANIFEST_UNKNOWN"),
        get(&manifest(&sha256("nothing"))).is(404).code("MANIFEST_UNKNOWN"),
        push_image("v1", &image()),
        get(&manifest("v2")).is(404).code("MANIFEST_UNKNOWN"),
        get(&manifest("V1")).is(404).code("MANIFEST_UNKNOWN"),
        head(&manifest(&sha256("nothing"))).is(404),
        get(&format!("/v2/elsewhere/manifests/{}", image().manifest.digest())).is(404),
    ];

    c02_reference_that_is_none_is_not_there: steps![
        get(&manifest(".hidden")).is_one_of([400, 404]),
        head(&manifest(".INVALID_MANIFEST_NAME")).is(404),
        get(&manifest(&"t".repeat(129))).is_one_of([400, 404]),
        get(&manifest("sha256:short")).is_one_of([400, 404]),
        get(&manifest("a:b")).is_one_of([400, 404]),
    ];

    push_to_a_reference_that_is_none_is_400: steps![
        push_manifest(".hidden", &index_of(&[])).is(400),
        push_manifest("-dash", &index_of(&[])).is(400),
        push_manifest(&"t".repeat(129), &index_of(&[])).is(400),
        push_manifest("sha256:short", &index_of(&[])).is(400).code("DIGEST_INVALID"),
        push_manifest("a%00b", &index_of(&[])).is(400),
        push_manifest("a%20b", &index_of(&[])).is(400),
        push_manifest("a+b", &index_of(&[])).is(400),
        get("/v2/{repo}/tags/list").is(404).code("NAME_UNKNOWN"),
    ];

    c21_tags_are_kept_as_they_are: steps![
        push_manifest("1.2.3_build.5", &index_of(&[])),
        push_manifest("_leading", &index_of(&[])),
        push_manifest("UPPER.lower-9", &index_of(&[])),
        push_manifest(&"t".repeat(128), &index_of(&[])),
        pulls("1.2.3_build.5", &index_of(&[])),
        pulls(&"t".repeat(128), &index_of(&[])),
        get("/v2/{repo}/tags/list")
            .json("/tags", vec!["1.2.3_build.5".to_owned(), "UPPER.lower-9".into(), "_leading".into(), "t".repeat(128)]),
    ];

    push_by_digest: steps![
        push_image(&image().manifest.digest(), &image()),
        pulls(&image().manifest.digest(), &image().manifest),
        get("/v2/{repo}/tags/list").is(200).json("/tags", json!([])).json("/name", "{repo}"),
    ];

    push_by_another_digest_is_400: steps![
        push_manifest(&sha256("other"), &index_of(&[])).is(400).code("DIGEST_INVALID"),
        get(&manifest(&sha256("other"))).is(404),
        get(&manifest(&index_of(&[]).digest())).is(404),
        push_manifest(&sha512("other"), &index_of(&[])).is(400).code("DIGEST_INVALID"),
    ];

    c22_manifest_by_sha512: steps![
        push_manifest(&index_of(&[]).digest512(), &index_of(&[])).has("Docker-Content-Digest", &index_of(&[]).digest512()),
        get(&manifest(&index_of(&[]).digest512()))
            .is(200)
            .gives(index_of(&[]).bytes)
            .has("Docker-Content-Digest", &index_of(&[]).digest512()),
        put(&format!("{}?tag=v5", manifest(&index_of(&[]).digest512())))
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(201),
        get(&manifest("v5")).is(200).has("Docker-Content-Digest", &index_of(&[]).digest512()),
    ];

    c22_image_of_sha512_blobs: {
        let config = config();
        let digest = sha512(&config.bytes);
        let image = Manifest::compact(media::MANIFEST, &json!({"schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": {"mediaType": media::CONFIG, "digest": digest, "size": config.bytes.len()}, "layers": []}));
        steps![
            push_manifest("v1", &image).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
            push_blob(config.bytes.clone()),
            push_manifest("v1", &image).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
            jreg_testkit::post(&format!("/v2/{{repo}}/blobs/uploads/?digest={digest}")).body(config.bytes).is(201),
            push_manifest("v1", &image),
            pulls("v1", &image),
        ]
    };

    c10_accept_does_not_hide_a_manifest: steps![
        push_image("v1", &image()),
        get(&manifest("v1")).header("Accept", "text/html").is(200).has("Content-Type", media::MANIFEST),
        get(&manifest("v1")).header("Accept", media::DOCKER_MANIFEST).is(200).gives(image().manifest.bytes),
        get(&manifest("v1")).header("Accept", "*/*").is(200),
        get(&manifest("v1")).is(200).has("Content-Type", media::MANIFEST),
        head(&manifest("v1")).header("Accept", "text/html").is(200),
    ];

    c10_parameters_of_the_content_type_are_stripped: steps![
        put(&manifest("v1"))
            .header("Content-Type", &format!("{}; charset=utf-8", media::INDEX))
            .body(index_of(&[]).bytes)
            .is(201),
        get(&manifest("v1")).is(200).has("Content-Type", media::INDEX),
        head(&manifest("v1")).is(200).has("Content-Type", media::INDEX),
    ];

    content_type_may_be_left_out: steps![
        put(&manifest("v1")).body(index_of(&[]).bytes).is(201),
        get(&manifest("v1")).is(200).has("Content-Type", media::INDEX).gives(index_of(&[]).bytes),
    ];

    c15_bytes_are_kept_exactly: {
        let bytes = "{\r\n\t\"schemaVersion\" : 2,\n  \"mediaType\":\"application/vnd.oci.image.index.v1+json\",\n\"manifests\":[ ],\"x\":1.50e3,\"y\":\"\\u0041\" }\n\n";
        steps![
            put(&manifest("v1")).header("Content-Type", media::INDEX).body(bytes).is(201).has("Docker-Content-Digest", &sha256(bytes)),
            get(&manifest("v1")).is(200).gives(bytes),
        ]
    };

    c15_docker_schema_2: {
        let image = ImageSpec {
            media_type: media::DOCKER_MANIFEST,
            config_type: media::DOCKER_CONFIG,
            ..ImageSpec::default()
        }.build();
        let list = Manifest::tabbed(media::DOCKER_LIST, &json!({"schemaVersion": 2,
            "mediaType": media::DOCKER_LIST, "manifests": [{"mediaType": media::DOCKER_MANIFEST,
            "digest": image.manifest.digest(), "size": image.manifest.bytes.len(),
            "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}]}));
        steps![
            push_image("v1", &image),
            pulls("v1", &image.manifest),
            push_manifest("list", &list),
            pulls("list", &list),
        ]
    };

    c15_four_mebibytes_and_no_more: steps![
        push_manifest("limit", &sized(LIMIT)),
        get(&manifest("limit")).is(200).gives(sized(LIMIT).bytes),
        push_manifest("over", &sized(LIMIT + 1)).is(413),
        get(&manifest("over")).is(404),
        get(&manifest(&sized(LIMIT + 1).digest())).is(404),
    ];

    too_many_descriptors_is_400: {
        let entry = index_of(&[]).descriptor();
        let many = |count: usize| {
            let layers = vec![entry.clone(); count];
            Manifest::compact(media::INDEX, &json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": layers}))
        };
        steps![
            push_manifest("most", &many(2048)),
            push_manifest("over", &many(2049)).is(400).code("MANIFEST_INVALID"),
            get(&manifest("over")).is(404),
        ]
    };

    references_that_take_too_much_to_look_for_are_400: {
        let digests = |count: usize| -> Vec<_> { (0..count).map(|n| sha256(n.to_string())).collect() };
        let any = |count| Manifest::compact("application/vnd.example.thing.v3+json", &json!({"any": digests(count)}));
        steps![
            push_manifest("most", &any(1024)),
            push_manifest("over", &any(1025)).is(400).code("MANIFEST_INVALID"),
            get(&manifest("over")).is(404),
        ]
    };

    location_of_a_push_names_the_digest: {
        let of = index_of(&[]).digest();
        let ends_with_digest = move |response: &Response| {
            let location = response.header("Location").unwrap_or_default();
            let is_so = location.ends_with(&format!("/manifests/{of}"));
            if is_so { Ok(()) } else { Err(format!("Location {location}")) }
        };
        steps![
            push_manifest("v1", &index_of(&[])).satisfies(ends_with_digest.clone()),
            push_manifest(&index_of(&[]).digest(), &index_of(&[])).satisfies(ends_with_digest),
        ]
    };

    fixed_a_manifest_keeps_its_media_type: {
        let bare = Manifest::compact(media::INDEX, &json!({"schemaVersion": 2, "manifests": []}));
        let other = |at: &str| {
            put(&manifest(at)).header("Content-Type", "application/vnd.example+json").body(bare.bytes.clone())
        };
        steps![
            push_manifest("v1", &bare),
            other(&bare.digest()).is(409).code("MANIFEST_INVALID").json("/errors/0/detail/mediaType", json!(media::INDEX)),
            other("v1").is(409).code("MANIFEST_INVALID"),
            other("v2").is(409).code("MANIFEST_INVALID"),
            get(&manifest("v2")).is(404),
            pulls("v1", &bare),
            pulls(&bare.digest(), &bare),
        ]
    };

    fixed_documents_of_two_kinds_are_400: {
        let entry = index_of(&[]).descriptor();
        let both = json!({"schemaVersion": 2, "config": image().blobs[0].descriptor(), "layers": [], "manifests": [entry]});
        let refused = |media_type: &str| {
            put(&manifest("v1")).header("Content-Type", media_type).body(both.to_string()).is(400).code("MANIFEST_INVALID")
        };
        steps![
            refused(media::MANIFEST),
            refused(media::INDEX),
            refused(media::ARTIFACT),
            refused("application/vnd.example+json"),
            put(&manifest("v1")).header("Content-Type", media::ARTIFACT).body(image().manifest.bytes).is(400).code("MANIFEST_INVALID"),
            get(&manifest("v1")).is(404),
        ]
    };

    half_a_surrogate_pair_in_an_annotation_is_kept: {
        let bytes = r#"{"schemaVersion":2,"manifests":[],"annotations":{"a":"\ud83d"}}"#;
        steps![
            put(&manifest("v1")).header("Content-Type", media::INDEX).body(bytes).is(201),
            get(&manifest("v1")).is(200).gives(bytes),
        ]
    };

    manifests_that_are_none_are_400: {
        let refused = |body: Bytes| {
            put(&manifest("v1")).header("Content-Type", media::MANIFEST).body(body).is(400).code("MANIFEST_INVALID")
        };
        steps![
            refused(Bytes::new()),
            refused("not json".into()),
            refused("[]".into()),
            refused("null".into()),
            refused("\"text\"".into()),
            refused("{\"schemaVersion\":2".into()),
            refused("{} {}".into()),
            refused(b"\xff\xfe{}".as_slice().into()),
            refused("[".repeat(100_000).into()),
            refused(format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).into()),
            refused("{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"digest\":\"sha256:bad\",\"size\":1},\"layers\":[]}".into()),
            refused("{\"schemaVersion\":2,\"config\":7,\"layers\":[]}".into()),
            refused("{\"schemaVersion\":2,\"layers\":\"none\"}".into()),
            get(&manifest("v1")).is(404),
            get("/v2/{repo}/tags/list").is(404),
        ]
    };

    unknown_media_types_are_kept: {
        let strange = Manifest::compact("application/vnd.example.thing.v3+json",
            &json!({"anything": ["goes", sha256("not here")], "blob": {"digest": sha256("x")}}));
        steps![push_manifest("v1", &strange), pulls("v1", &strange)]
    };

    artifact_manifest_of_the_first_drafts: {
        let payload = Blob { media_type: "text/plain", bytes: Bytes::from_static(b"payload") };
        let artifact = Manifest::tabbed(media::ARTIFACT, &json!({"mediaType": media::ARTIFACT,
            "artifactType": "application/vnd.example", "blobs": [payload.descriptor()]}));
        steps![push_blob(payload.bytes), push_manifest("v1", &artifact), pulls("v1", &artifact)]
    };

    c21_helm_chart: {
        let config = Blob { media_type: "application/vnd.cncf.helm.config.v1+json", bytes: Bytes::from_static(b"{\"name\":\"chart\"}") };
        let chart = Blob { media_type: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", bytes: Rng::new(3).bytes(500) };
        let manifest = image_of(&config, &[chart.descriptor()]);
        steps![push_blob(config.bytes), push_blob(chart.bytes), push_manifest("0.1.0_build.7", &manifest), pulls("0.1.0_build.7", &manifest)]
    };

    c23_cosign_tags: {
        let subject = image().manifest.digest().replace(':', "-");
        let signature = ImageSpec { seed: 9, layers: 1, ..ImageSpec::default() }.build();
        steps![
            push_image("v1", &image()),
            push_image(&format!("{subject}.sig"), &signature),
            push_manifest(&format!("{subject}.att"), &signature.manifest),
            push_manifest(&subject, &index_of(&[signature.manifest.descriptor()])),
            pulls(&format!("{subject}.sig"), &signature.manifest),
            pulls(&subject, &index_of(&[signature.manifest.descriptor()])),
        ]
    };

    c16_buildx_cache_index_names_blobs: {
        let layer = Blob::layer(&mut Rng::new(4), 100);
        let cache = Blob { media_type: "application/vnd.buildkit.cacheconfig.v0", bytes: Bytes::from_static(b"{\"layers\":[]}") };
        let index = index_of(&[layer.descriptor(), cache.descriptor()]);
        steps![push_blob(layer.bytes), push_blob(cache.bytes), push_manifest("cache", &index), pulls("cache", &index)]
    };

    c16_buildx_cache_index_under_the_strict_policy [ServerSpec::with(|s| s.references = ReferencePolicy::Strict)]: {
        let layer = Blob::layer(&mut Rng::new(4), 100);
        let index = index_of(&[layer.descriptor()]);
        steps![push_manifest("cache", &index).is_one_of([400, 404]), push_blob(layer.bytes), push_manifest("cache", &index)]
    };

    c16_buildx_cache_as_an_image: {
        let cache = Blob { media_type: "application/vnd.buildkit.cacheconfig.v0", bytes: Bytes::from_static(b"{}") };
        let layer = Blob::layer(&mut Rng::new(4), 100);
        let image = image_of(&cache, &[layer.descriptor()]);
        steps![push_blob(cache.bytes), push_blob(layer.bytes), push_manifest("cache", &image), pulls("cache", &image)]
    };

    c16_attestations_of_unknown_platform: {
        let mut attestation = image().manifest.descriptor();
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let index = index_of(&[attestation]);
        steps![push_image("v1", &image()), push_manifest("index", &index), pulls("index", &index)]
    };

    c17_image_without_its_blobs_is_refused: steps![
        push_manifest("v1", &image().manifest).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
        push_blob(image().blobs[0].bytes.clone()),
        push_manifest("v1", &image().manifest).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
        get(&manifest("v1")).is(404),
        get(&manifest(&image().manifest.digest())).is(404),
        push_image("v1", &image()),
    ];

    c17_sparse_index_by_default: steps![
        push_manifest("index", &index_of(&[image().manifest.descriptor()])),
        pulls("index", &index_of(&[image().manifest.descriptor()])),
        get(&manifest(&image().manifest.digest())).is(404),
    ];

    c17_strict_policy_wants_everything [ServerSpec::with(|s| s.references = ReferencePolicy::Strict)]: steps![
        push_manifest("index", &index_of(&[image().manifest.descriptor()]))
            .is_one_of([400, 404])
            .code("MANIFEST_BLOB_UNKNOWN"),
        get(&manifest("index")).is(404),
        push_manifest("v1", &image().manifest).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
        push_image("v1", &image()),
        push_manifest("index", &index_of(&[image().manifest.descriptor()])),
    ];

    c17_policy_off_wants_nothing [ServerSpec::with(|s| s.references = ReferencePolicy::Off)]: steps![
        push_manifest("v1", &image().manifest),
        pulls("v1", &image().manifest),
        push_manifest("index", &index_of(&[Image::plain(2).manifest.descriptor()])),
    ];

    blobs_of_another_repository_do_not_count: steps![
        image().blobs.into_iter().map(|blob| jreg_testkit::push_blob_to("elsewhere", blob.bytes)).collect::<Vec<_>>(),
        push_manifest("v1", &image().manifest).is_one_of([400, 404]).code("MANIFEST_BLOB_UNKNOWN"),
    ];

    nondistributable_layers_may_be_absent: {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let image = image_of(&config(), &[absent_layer(media::NONDISTRIBUTABLE), absent_layer(foreign)]);
        steps![push_blob(config().bytes), push_manifest("v1", &image), pulls("v1", &image)]
    };

    fixed_one_layer_twice: {
        let layer = Blob::layer(&mut Rng::new(6), 100);
        let image = image_of(&config(), &[layer.descriptor(), layer.descriptor()]);
        let single = image_of(&config(), &[layer.descriptor()]);
        steps![
            push_blob(config().bytes),
            push_blob(layer.bytes.clone()),
            push_manifest("twice", &image),
            push_manifest("once", &single),
            delete(&manifest(&image.digest())).is(202),
            pulls("once", &single),
            get(&crate::contract::blobs::blob(&layer.bytes)).is(200).gives(layer.bytes.clone()),
            push_manifest("twice", &image),
            pulls("twice", &image),
        ]
    };

    image_without_layers: steps![
        push_blob(config().bytes),
        push_manifest("v1", &image_of(&config(), &[])),
        pulls("v1", &image_of(&config(), &[])),
    ];

    fixed_retag_keeps_the_old_digest: steps![
        push_image("v1", &image()),
        push_image("v1", &Image::plain(2)),
        pulls("v1", &Image::plain(2).manifest),
        pulls(&image().manifest.digest(), &image().manifest),
    ];

    pushing_again_is_201: steps![
        push_image("v1", &image()),
        push_manifest("v1", &image().manifest),
        push_manifest("v2", &image().manifest),
        pulls("v1", &image().manifest),
        pulls("v2", &image().manifest),
    ];

    tags_beside_a_digest: steps![
        put(&format!("{}?tag=1.2.3&tag=1.2&tag=1&tag=latest", manifest(&index_of(&[]).digest())))
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(201)
            .satisfies(lists_tags(&["1", "1.2", "1.2.3", "latest"])),
        pulls("1.2.3", &index_of(&[])),
        pulls("latest", &index_of(&[])),
        get("/v2/{repo}/tags/list").json("/tags", json!(["1", "1.2", "1.2.3", "latest"])),
    ];

    ten_tags_beside_a_digest: steps![
        put(&format!("{}?{}", manifest(&index_of(&[]).digest()), tag_query(10)))
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(201)
            .satisfies(lists_tags(&["t0000", "t0001", "t0002", "t0003", "t0004", "t0005", "t0006", "t0007", "t0008", "t0009"])),
        pulls("t0009", &index_of(&[])),
    ];

    too_many_tags_beside_a_digest_is_414: steps![
        put(&format!("{}?{}", manifest(&index_of(&[]).digest()), tag_query(2000)))
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(414),
        get(&manifest("t0000")).is(404),
    ];

    a_bad_tag_beside_a_digest_is_400: steps![
        put(&format!("{}?tag=good&tag=.bad", manifest(&index_of(&[]).digest())))
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(400),
        get(&manifest("good")).is(404),
        get(&manifest(&index_of(&[]).digest())).is(404),
    ];

    push_without_tags_lists_none: steps![push_manifest("v1", &index_of(&[])).lacks("OCI-Tag").lacks("OCI-Subject")];

    push_by_chunks: steps![
        put(&manifest("v1")).header("Content-Type", media::INDEX).chunked(["{\"schemaVersion\":2,", "\"manifests\":[]}"]).is(201),
        get(&manifest("v1")).is(200).gives("{\"schemaVersion\":2,\"manifests\":[]}"),
    ];

    index_of_an_index: steps![
        push_image("v1", &image()),
        push_manifest("inner", &index_of(&[image().manifest.descriptor()])),
        push_manifest("outer", &index_of(&[index_of(&[image().manifest.descriptor()]).descriptor()])),
        pulls("outer", &index_of(&[index_of(&[image().manifest.descriptor()]).descriptor()])),
    ];
}
