//! Manifests: what is accepted, and what each is taken to refer to.

use jreg_oci::{
    ANNOTATIONS_MAX, Algorithm, DESCRIPTORS_MAX, Descriptor, Digest, InvalidManifest, LOOKUPS_MAX,
    Manifest, ManifestReference, MediaType, ReferenceKind, media_type,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use ReferenceKind::{Any, Child, Config, Layer};

fn digest(of: &str) -> Digest {
    Digest::of(Algorithm::Sha256, of.as_bytes())
}

fn descriptor(media_type: &str, of: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(of), "size": of.len()})
}

fn layer(of: &str) -> Value {
    descriptor("application/vnd.oci.image.layer.v1.tar+gzip", of)
}

fn config() -> Value {
    descriptor("application/vnd.oci.image.config.v1+json", "config")
}

fn image(layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_IMAGE_MANIFEST,
        "config": config(),
        "layers": layers,
    })
}

fn with(mut manifest: Value, field: &str, value: Value) -> Value {
    manifest[field] = value;
    manifest
}

fn without(mut manifest: Value, field: &str) -> Value {
    manifest.as_object_mut().unwrap().remove(field);
    manifest
}

fn parse(manifest: &Value) -> Result<Manifest, InvalidManifest> {
    Manifest::parse(None, manifest.to_string().as_bytes())
}

fn parse_as(content_type: &str, manifest: &Value) -> Result<Manifest, InvalidManifest> {
    let content_type = content_type.parse().unwrap();
    Manifest::parse(Some(&content_type), manifest.to_string().as_bytes())
}

fn reference(of: &str, kind: ReferenceKind, required: bool) -> ManifestReference {
    ManifestReference { digest: digest(of), kind, required }
}

#[test]
fn an_image_refers_to_its_config_and_layers() {
    let manifest = parse(&image(&[layer("1"), layer("2")])).unwrap();
    assert_eq!(manifest.media_type, MediaType::OCI_IMAGE_MANIFEST);
    let expected = [
        reference("config", Config, true),
        reference("1", Layer, true),
        reference("2", Layer, true),
    ];
    assert_eq!(manifest.references, expected);
    assert_eq!(manifest.subject, None);
    assert_eq!(manifest.artifact_type.unwrap(), "application/vnd.oci.image.config.v1+json");
    assert!(manifest.annotations.is_empty());
}

#[test]
fn no_layers_are_fine_but_no_list_of_them_is_not() {
    let only_config = [reference("config", Config, true)];
    assert_eq!(parse(&image(&[])).unwrap().references, only_config);
    // Go writes an empty list as null.
    let null = with(image(&[]), "layers", Value::Null);
    assert_eq!(parse(&null).unwrap().references, only_config);

    let media_type = MediaType::OCI_IMAGE_MANIFEST;
    for field in ["config", "layers"] {
        let error = parse(&without(image(&[]), field)).unwrap_err();
        let missing = InvalidManifest::MissingField { media_type: media_type.clone(), field };
        assert_eq!(error, missing);
    }
    let null = with(image(&[]), "config", Value::Null);
    let field = "config";
    assert_eq!(parse(&null), Err(InvalidManifest::MissingField { media_type, field }));
}

#[test]
fn layers_that_live_elsewhere_are_not_required() {
    let urls = with(layer("urls"), "urls", json!(["https://example.com/layer"]));
    let nondistributable = descriptor(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "nondistributable",
    );
    let foreign = descriptor(media_type::DOCKER_FOREIGN_LAYER, "foreign");
    let empty_urls = with(layer("empty"), "urls", json!([]));
    let null_urls = with(layer("null"), "urls", Value::Null);
    let layers = [urls, nondistributable, foreign, empty_urls, null_urls];
    let expected = [
        reference("config", Config, true),
        reference("urls", Layer, false),
        reference("nondistributable", Layer, false),
        reference("foreign", Layer, false),
        reference("empty", Layer, true),
        reference("null", Layer, true),
    ];
    assert_eq!(parse(&image(&layers)).unwrap().references, expected);
}

/// Listing a layer twice must not make it two references: a delete would count wrong.
#[test]
fn the_same_digest_twice_is_one_reference() {
    let elsewhere = |of| with(layer(of), "urls", json!(["https://example.com/"]));
    let layers = [
        layer("1"),
        layer("2"),
        layer("1"),
        elsewhere("3"),
        layer("3"),
        elsewhere("2"),
        layer("config"),
    ];
    let expected = [
        reference("config", Config, true),
        reference("1", Layer, true),
        reference("2", Layer, true),
        reference("3", Layer, true),
    ];
    assert_eq!(parse(&image(&layers)).unwrap().references, expected);
}

#[test]
fn an_index_refers_to_its_children_whatever_they_are() {
    let platform = json!({"os": "unknown", "architecture": "unknown"});
    let attestation = descriptor(media_type::OCI_IMAGE_MANIFEST, "attestation");
    let children = json!([
        descriptor(media_type::OCI_IMAGE_MANIFEST, "image"),
        with(attestation, "platform", platform),
        layer("cached layer"),
        descriptor("application/vnd.buildkit.cacheconfig.v0", "cache config"),
        descriptor(media_type::OCI_IMAGE_INDEX, "index"),
    ]);
    let expected = ["image", "attestation", "cached layer", "cache config", "index"]
        .map(|of| reference(of, Child, true));
    for media_type in [media_type::OCI_IMAGE_INDEX, media_type::DOCKER_MANIFEST_LIST] {
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children});
        let manifest = parse(&index).unwrap();
        assert_eq!(manifest.references, expected);
        assert_eq!(manifest.artifact_type, None, "an index has no config to name one");
        let empty = with(index.clone(), "manifests", json!([]));
        assert_eq!(parse(&empty).unwrap().references, []);
        let missing = parse(&without(index, "manifests")).unwrap_err();
        assert!(matches!(missing, InvalidManifest::MissingField { field: "manifests", .. }));
    }
}

#[test]
fn an_artifact_manifest_refers_to_its_blobs() {
    let artifact = json!({
        "mediaType": media_type::OCI_ARTIFACT_MANIFEST,
        "artifactType": "application/x",
        "blobs": [layer("blob"), with(layer("far"), "urls", json!(["https://example.com/"]))],
        "subject": descriptor(media_type::OCI_IMAGE_MANIFEST, "subject"),
    });
    let manifest = parse(&artifact).unwrap();
    let expected = [reference("blob", Layer, true), reference("far", Layer, false)];
    assert_eq!(manifest.references, expected);
    assert_eq!(manifest.artifact_type.as_deref(), Some("application/x"));
    assert_eq!(manifest.subject.unwrap().digest, digest("subject"));
    assert_eq!(parse(&without(artifact, "blobs")).unwrap().references, []);
}

#[test]
fn an_unknown_type_keeps_every_digest_and_requires_none() {
    let unknown = json!({
        "a": digest("1"),
        "b": ["x", {"c": [[{"digest": digest("2"), "size": -1}]]}, null, true, 1.5, -3, 7],
        "again": digest("1"),
        "not quite": format!("{} ", digest("3")),
        "layers": "nothing of the sort",
        "config": 3,
        digest("a key is no reference").to_string(): "",
        "mediaType": "application/x",
    });
    let manifest = parse(&unknown).unwrap();
    assert_eq!(manifest.media_type, "application/x");
    assert_eq!(manifest.references, [reference("1", Any, false), reference("2", Any, false)]);
    assert_eq!(parse_as("application/json", &json!({})).unwrap().references, []);
}

/// Deep brackets must not cost the stack, and what is accepted must be readable to GC, however deep. The
/// digest in the middle is found, or the manifest refused.
#[test]
fn what_is_nested_deeply_is_refused_or_read_to_its_depth() {
    let digest = digest("1");
    let kinds = ["application/x", media_type::OCI_IMAGE_INDEX, media_type::OCI_IMAGE_MANIFEST];
    let depths = (1..200).chain([5_000, 1_000_000]);
    for (depth, kind) in depths.flat_map(|depth| kinds.map(|kind| (depth, kind))) {
        let (opened, closed) = ("[".repeat(depth), "]".repeat(depth));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[],"x":{opened}"{digest}"{closed}}}"#,
            config()
        );
        let text = match kind {
            media_type::OCI_IMAGE_INDEX => text.replacen("layers", "manifests", 1),
            _ => text,
        };
        let text = match kind {
            media_type::OCI_IMAGE_MANIFEST => text,
            _ => text.replacen(&format!(r#""config":{},"#, config()), "", 1),
        };
        let kind: MediaType = kind.parse().unwrap();
        let Ok(manifest) = Manifest::parse(Some(&kind), text.as_bytes()) else {
            assert!(depth > 100, "{kind} {depth}");
            continue;
        };
        let stored = Manifest::parse_stored(&kind, text.as_bytes()).unwrap();
        assert_eq!(stored.references, manifest.references, "{kind} {depth}");
        assert!(manifest.references.iter().any(|of| of.digest == digest), "{kind} {depth}");
        assert!(depth < 200, "{kind} {depth}");
    }
}

#[test]
fn an_unknown_type_may_have_a_subject() {
    let subject = descriptor(media_type::OCI_IMAGE_MANIFEST, "subject");
    let unknown = json!({
        "subject": subject,
        "artifactType": "application/y",
        "annotations": {"k": "v"},
        "inner": {"subject": descriptor("", "inner")},
    });
    let manifest = parse_as("application/x", &unknown).unwrap();
    assert_eq!(manifest.subject.unwrap().digest, digest("subject"));
    assert_eq!(manifest.artifact_type.as_deref(), Some("application/y"));
    assert_eq!(manifest.annotations.to_map().unwrap()["k"], "v");
    assert_eq!(manifest.references, [reference("inner", Any, false)]);

    // What looks otherwise is not taken for one, and what it names is kept.
    for subject in [json!(digest("s")), json!([digest("s")]), json!({"id": digest("s")})] {
        let manifest = parse_as("application/x", &json!({"subject": subject})).unwrap();
        assert_eq!(manifest.subject, None);
        assert_eq!(manifest.references, [reference("s", Any, false)]);
    }
}

#[test]
fn a_subject_is_never_a_reference() {
    let subject = with(
        descriptor(media_type::OCI_IMAGE_MANIFEST, "subject"),
        "annotations",
        json!({"dropped": "yes"}),
    );
    let index = json!({"mediaType": media_type::OCI_IMAGE_INDEX, "manifests": []});
    for manifest in [image(&[]), index] {
        let manifest = parse(&with(manifest, "subject", subject.clone())).unwrap();
        let expected = Descriptor::new(&MediaType::OCI_IMAGE_MANIFEST, digest("subject"), 7);
        assert_eq!(manifest.subject, Some(expected));
        assert!(manifest.references.iter().all(|r| r.digest != digest("subject")));
    }
    assert_eq!(parse(&with(image(&[]), "subject", Value::Null)).unwrap().subject, None);
    for bad in [json!({}), json!({"digest": "sha256:abc"}), json!({"digest": "md5:00"}), json!("")]
    {
        assert!(parse(&with(image(&[]), "subject", bad.clone())).is_err(), "{bad}");
    }
}

#[test]
fn the_artifact_type_is_the_own_one_or_the_configs() {
    let typed =
        |value: Value| parse(&with(image(&[]), "artifactType", value)).unwrap().artifact_type;
    let of_config = Some("application/vnd.oci.image.config.v1+json".to_owned());
    assert_eq!(typed(json!("application/x")).as_deref(), Some("application/x"));
    assert_eq!(typed(json!("")), of_config);
    assert_eq!(typed(Value::Null), of_config);
    let docker = with(image(&[]), "mediaType", json!(media_type::DOCKER_MANIFEST));
    assert_eq!(parse(&docker).unwrap().artifact_type, of_config);
    let config = without(config(), "mediaType");
    assert_eq!(parse(&with(image(&[]), "config", config)).unwrap().artifact_type, None);
    let index = json!({"mediaType": media_type::OCI_IMAGE_INDEX, "manifests": [], "artifactType": "application/x"});
    assert_eq!(parse(&index).unwrap().artifact_type.as_deref(), Some("application/x"));
}

#[test]
fn the_media_type_is_the_headers_or_the_bodys_or_guessed() {
    let typed = image(&[]);
    let bare = without(image(&[]), "mediaType");
    let oci = media_type::OCI_IMAGE_MANIFEST;
    assert_eq!(parse_as(oci, &typed).unwrap().media_type, oci);
    assert_eq!(parse_as(oci, &bare).unwrap().media_type, oci);
    assert_eq!(parse_as(oci, &with(bare.clone(), "mediaType", json!(""))).unwrap().media_type, oci);
    assert_eq!(parse(&typed).unwrap().media_type, oci);
    assert_eq!(parse(&bare).unwrap().media_type, oci);
    assert_eq!(parse(&json!({"manifests": []})).unwrap().media_type, media_type::OCI_IMAGE_INDEX);

    // Case is kept, and does not hide what a manifest is.
    let upper = parse_as(&oci.to_uppercase(), &typed).unwrap();
    assert_eq!(upper.media_type.as_str(), oci.to_uppercase());
    assert_eq!(upper.references, [reference("config", Config, true)]);

    let mismatch = parse_as("application/json", &typed).unwrap_err();
    let both = (oci.to_owned(), "application/json".parse().unwrap());
    let InvalidManifest::MediaTypeMismatch { content_type, body } = &mismatch else {
        panic!("{mismatch}")
    };
    assert_eq!((body.clone(), content_type.clone()), both);
    assert!(
        mismatch.to_string().contains(oci) && mismatch.to_string().contains("application/json")
    );
    for unknown in [json!({}), json!({"config": config()}), json!({"layers": []})] {
        assert_eq!(parse(&unknown), Err(InvalidManifest::UnknownKind), "{unknown}");
    }
    let invalid = parse(&json!({"mediaType": "manifest"}));
    assert!(matches!(invalid, Err(InvalidManifest::MediaType(_))));
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    // Also in fields that are not used: every reader of a manifest must get through it.
    let deep = format!("{}{}", "{\"a\":".repeat(200), "1".to_owned() + &"}".repeat(200));
    let refused: [&[u8]; 16] = [
        b"",
        b" ",
        b"null",
        b"1",
        b"\"x\"",
        b"[]",
        b"[{}]",
        b"{",
        b"{}{}",
        b"{} x",
        b"{\"a\":1,}",
        b"{'a':1}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\"}",
        b"\0",
        deep.as_bytes(),
    ];
    for content_type in ["application/x", media_type::OCI_IMAGE_MANIFEST] {
        let content_type = content_type.parse().unwrap();
        for bytes in refused {
            let error = Manifest::parse(Some(&content_type), bytes).unwrap_err();
            let shown = String::from_utf8_lossy(bytes);
            assert!(matches!(error, InvalidManifest::Json { .. }), "{shown}: {error}");
        }
    }
}

#[test]
fn fields_of_the_wrong_type_are_refused() {
    let twice = br#"{"mediaType":"application/x","mediaType":"application/y"}"#;
    let error = Manifest::parse(None, twice).unwrap_err();
    assert!(error.to_string().contains("duplicate field"), "{error}");
    let rows = [
        ("mediaType", json!(1)),
        ("config", json!([])),
        ("config", json!(["application/x", digest("config"), 1])),
        ("config", json!("x")),
        ("config", json!({"mediaType": "application/x", "size": 1})),
        ("layers", json!({})),
        ("layers", json!([null])),
        ("layers", json!([digest("1")])),
        ("layers", json!([["application/x", digest("1"), 1]])),
        ("layers", json!([with(layer("1"), "size", json!(1.5))])),
        ("layers", json!([with(layer("1"), "size", json!("1"))])),
        ("layers", json!([with(layer("1"), "size", json!(u64::MAX))])),
        ("layers", json!([with(layer("1"), "digest", json!(1))])),
        ("layers", json!([with(layer("1"), "urls", json!("https://example.com"))])),
        ("annotations", json!({"a": 1})),
        ("annotations", json!(["a"])),
        ("artifactType", json!({})),
        ("subject", json!("x")),
    ];
    for (field, value) in rows {
        let error = parse(&with(image(&[]), field, value.clone())).unwrap_err();
        assert!(matches!(error, InvalidManifest::Json { .. }), "{field} {value}: {error}");
        assert!(error.to_string().starts_with("invalid manifest: "), "{error}");
    }
}

#[test]
fn descriptors_without_a_usable_digest_are_refused() {
    let layers = |bad: Value| json!([layer("1"), bad]);
    let malformed = with(layer("2"), "digest", json!("sha256:abc"));
    let error = parse(&with(image(&[]), "layers", layers(malformed.clone()))).unwrap_err();
    assert!(
        error.to_string().starts_with("invalid manifest: layers[1]: invalid digest"),
        "{error}"
    );
    let error = parse(&with(image(&[]), "config", malformed.clone())).unwrap_err();
    assert!(error.to_string().starts_with("invalid manifest: config: invalid digest"), "{error}");
    let index = json!({"manifests": [malformed.clone()]});
    let error = parse(&index).unwrap_err();
    assert!(error.to_string().starts_with("invalid manifest: manifests[0]: "), "{error}");

    let unsupported = with(layer("2"), "digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e"));
    let error = parse(&with(image(&[]), "layers", layers(unsupported.clone()))).unwrap_err();
    assert!(error.to_string().contains("layers[1]: unsupported digest algorithm"), "{error}");
    // Elsewhere it may be addressed as it pleases, but it must be an address.
    let urls = json!(["https://example.com/"]);
    let far = with(unsupported, "urls", urls.clone());
    let manifest = parse(&with(image(&[]), "layers", layers(far))).unwrap();
    assert_eq!(
        manifest.references,
        [reference("config", Config, true), reference("1", Layer, true)]
    );
    let far = with(malformed, "urls", urls);
    assert!(parse(&with(image(&[]), "layers", layers(far))).is_err());
}

#[test]
fn sizes_are_not_negative_and_may_be_missing() {
    let negative = with(layer("1"), "size", json!(-1));
    let error = parse(&image(&[negative])).unwrap_err();
    assert_eq!(error, InvalidManifest::NegativeSize { field: "layers[0]".to_owned(), size: -1 });
    assert!(parse(&image(&[without(layer("1"), "size")])).is_ok());
    assert!(parse(&image(&[with(layer("1"), "size", json!(i64::MAX))])).is_ok());
}

#[test]
fn more_descriptors_than_the_limit_are_refused() {
    let too_many = Err(InvalidManifest::TooManyDescriptors { max: DESCRIPTORS_MAX });
    let layers = |count: usize| -> Vec<_> { (0..count).map(|i| layer(&i.to_string())).collect() };
    // The config counts too.
    let largest = parse(&image(&layers(DESCRIPTORS_MAX - 1))).unwrap();
    assert_eq!(largest.references.len(), DESCRIPTORS_MAX);
    assert_eq!(parse(&image(&layers(DESCRIPTORS_MAX))), too_many);
    let same = vec![layer("same"); DESCRIPTORS_MAX];
    assert_eq!(parse(&image(&same)), too_many, "even if they are all the same");

    // Not even looked at, however many more there are and whatever they are.
    let garbage = json!({"manifests": layers(5000), "x": vec![0; 1000]});
    assert_eq!(parse(&garbage), too_many);
}

/// Each entry of an index may be a manifest or a blob, and so may a digest that stands anywhere: two
/// requests to the store, where a layer is one.
#[test]
fn references_are_limited_by_the_cost_of_looking_them_up() {
    let too_many = Err(InvalidManifest::TooManyReferences { max: LOOKUPS_MAX });
    let layers = |count: usize| -> Vec<_> { (0..count).map(|i| layer(&i.to_string())).collect() };
    let digests = |count: usize| -> Vec<_> { (0..count).map(|i| digest(&i.to_string())).collect() };
    let most = LOOKUPS_MAX / 2;
    let index = |count| json!({"manifests": layers(count)});
    assert_eq!(parse(&index(most)).unwrap().references.len(), most);
    assert_eq!(parse(&index(most + 1)), too_many);
    let unknown = |count| parse_as("application/x", &json!({"any": digests(count)}));
    assert_eq!(unknown(most).unwrap().references.len(), most);
    assert_eq!(unknown(most + 1), too_many);
    assert_eq!(unknown(10 * most), too_many);
    let image = |count| parse(&with(image(&[]), "org.example.any", json!(digests(count))));
    assert_eq!(image(most - 1).unwrap().references.len(), most);
    assert_eq!(image(most), too_many);
    // Each counts once, however often it is there.
    let same = json!({"any": vec![digest("same"); 10 * most]});
    assert_eq!(parse_as("application/x", &same).unwrap().references.len(), 1);
}

#[test]
fn annotations_are_limited_and_kept_as_they_were_written() {
    let annotated = |count: usize| {
        let annotations: Value = (0..count).map(|n| (n.to_string(), json!(""))).collect();
        with(image(&[]), "annotations", annotations)
    };
    let most = parse(&annotated(ANNOTATIONS_MAX)).unwrap();
    assert_eq!(most.annotations.len(), ANNOTATIONS_MAX);
    assert_eq!(most.annotations.as_json(), annotated(ANNOTATIONS_MAX)["annotations"].to_string());
    let too_many = Err(InvalidManifest::TooManyAnnotations { max: ANNOTATIONS_MAX });
    assert_eq!(parse(&annotated(ANNOTATIONS_MAX + 1)), too_many);
}

/// A limit is for pushes. What an earlier version stored is read as it was, or nothing could be
/// collected beside it.
#[test]
fn what_was_stored_is_read_whatever_the_limits() {
    let media_type = MediaType::OCI_IMAGE_INDEX;
    let children: Vec<_> = (0..4096).map(|i| layer(&i.to_string())).collect();
    let index = json!({"manifests": children, "config": config(), "layers": [layer("x")]});
    let bytes = index.to_string().into_bytes();
    let stored = Manifest::parse_stored(&media_type, &bytes).unwrap();
    assert_eq!(stored.references.len(), 4096 + 2);
    assert!(Manifest::parse(Some(&media_type), &bytes).is_err());
}

/// One client would run one image, and another one another, by the same digest (CVE-2021-41190).
#[test]
fn documents_of_two_kinds_are_refused() {
    let children = json!([descriptor(media_type::OCI_IMAGE_MANIFEST, "child")]);
    let both = with(without(image(&[layer("1")]), "mediaType"), "manifests", children.clone());
    let types = [
        media_type::OCI_IMAGE_MANIFEST,
        media_type::OCI_IMAGE_INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_MANIFEST_LIST,
        media_type::OCI_ARTIFACT_MANIFEST,
        "application/x",
    ];
    let is_refused = |content_type: &str, document: &Value| {
        let error = parse_as(content_type, document).unwrap_err();
        assert!(matches!(error, InvalidManifest::Ambiguous { .. }), "{document}: {error}");
    };
    for content_type in types {
        is_refused(content_type, &both);
        // Go reads the names of fields without regard to case.
        let upper = with(image(&[layer("1")]), "MANIFESTS", children.clone());
        is_refused(content_type, &without(upper, "mediaType"));
    }
    let list = json!({"manifests": children});
    is_refused(media_type::OCI_IMAGE_INDEX, &with(list.clone(), "layers", json!([])));
    is_refused(media_type::OCI_IMAGE_MANIFEST, &with(image(&[]), "manifests", json!([])));
    let bare = without(image(&[layer("1")]), "mediaType");
    is_refused(media_type::OCI_ARTIFACT_MANIFEST, &bare);
    is_refused(media_type::OCI_ARTIFACT_MANIFEST, &list);
    assert!(parse(&both).is_err(), "also without a media type");
    let null = with(image(&[layer("1")]), "manifests", Value::Null);
    assert!(parse(&null).is_ok(), "null is absent");
}

/// Clients written in Go take `Layers` for `layers`, and the last of two fields with one name.
#[test]
fn fields_that_clients_read_differently_are_refused() {
    let types = [
        media_type::OCI_IMAGE_MANIFEST,
        media_type::OCI_IMAGE_INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_MANIFEST_LIST,
        media_type::OCI_ARTIFACT_MANIFEST,
        "application/x",
    ];
    let bare = |document: Value| without(document, "mediaType");
    let image = with(image(&[layer("1")]), "annotations", json!({"Size": "", "size": ""}));
    let index = json!({"manifests": [descriptor(media_type::OCI_IMAGE_MANIFEST, "child")]});
    for document in [bare(image.clone()), index] {
        let text = document.to_string();
        let end = text.len() - 1;
        for content_type in types {
            let read =
                |text: &str| Manifest::parse(Some(&content_type.parse().unwrap()), text.as_bytes());
            let is_refused = |text: &str| {
                let error = read(text).unwrap_err();
                assert!(
                    matches!(
                        error,
                        InvalidManifest::AmbiguousField { .. }
                            | InvalidManifest::Json { .. }
                            | InvalidManifest::Ambiguous { .. }
                    ),
                    "{content_type}: {text}: {error}"
                );
            };
            for twice in ["schemaVersion", "annotations", "subject", "artifactType", "fsLayers"] {
                let upper = twice.to_uppercase();
                for (first, second) in [(twice, upper.as_str()), (twice, twice)] {
                    let fields = format!(",\"{first}\":null,\"{second}\":null}}");
                    is_refused(
                        &format!("{}{fields}", &text[..end])
                            .replace("\"annotations\":{\"Size\":\"\",\"size\":\"\"},", ""),
                    );
                }
            }
            for (field, other) in [
                ("\"digest\":", "\"Digest\":"),
                ("\"size\":", "\"\u{17f}ize\":"),
                ("\"mediaType\":", "\"mediatype\":"),
            ] {
                let place = text.rfind(field).unwrap();
                is_refused(&format!("{}{other}1,{}", &text[..place], &text[place..]));
            }
        }
    }
    let other_case = with(image.clone(), "Subject", descriptor("a/b", "x"));
    let refused = InvalidManifest::AmbiguousField { field: "subject".to_owned() };
    assert_eq!(parse(&other_case).unwrap_err(), refused);
    assert!(parse_as("application/x", &json!({"Subject": "", "Config": ""})).is_ok());
    assert!(parse(&image).is_ok());
    // What an earlier version accepted stays readable.
    let text = with(image, "Layers", json!([])).to_string();
    Manifest::parse_stored(&MediaType::OCI_IMAGE_MANIFEST, text.as_bytes()).unwrap();
}

#[test]
fn half_a_surrogate_pair_is_accepted_where_nothing_depends_on_it() {
    let lone = |manifest: &Value| manifest.to_string().replace("LONE", r"\ud800");
    let read = |text: String| Manifest::parse(None, text.as_bytes());
    let annotations = json!({"LONE": "a", "b": "xLONE"});
    let image = with(
        image(&[with(layer("1"), "annotations", annotations.clone())]),
        "annotations",
        annotations,
    );
    let manifest = read(lone(&image)).unwrap();
    assert_eq!(manifest.references.len(), 2);
    assert!(manifest.annotations.as_json().contains(r"\ud800"));
    let unknown = lone(&json!({"a": ["LONE", {"LONE": digest("1")}]}));
    let content_type = "application/x".parse().unwrap();
    let unknown = Manifest::parse(Some(&content_type), unknown.as_bytes()).unwrap();
    assert_eq!(unknown.references, [reference("1", Any, false)]);
    for (field, value) in [
        ("mediaType", json!("application/LONE")),
        ("artifactType", json!("LONE")),
        ("layers", json!([with(layer("1"), "mediaType", json!("LONE"))])),
        ("LONE", json!(1)),
    ] {
        assert!(read(lone(&with(image.clone(), field, value))).is_err(), "{field}");
    }
}

#[test]
fn what_docker_writes_is_read() {
    let manifest = format!(
        "{{\n\t\"schemaVersion\": 2,\n\t\"mediaType\": \"{}\",\r\n\t\"config\": {{\n\t\t\
         \"mediaType\": \"application/vnd.docker.container.image.v1+json\",\n\t\t\"size\": 7023,\n\
         \t\t\"digest\": \"{}\"\n\t}},\n\t\"layers\": [\n\t\t{{\n\t\t\t\"mediaType\": \
         \"application/vnd.docker.image.rootfs.diff.tar.gzip\",\n\t\t\t\"size\": 32654,\n\t\t\t\
         \"digest\": \"{}\"\n\t\t}}\n\t]\n}}\n",
        media_type::DOCKER_MANIFEST,
        digest("config"),
        digest("1"),
    );
    let manifest = Manifest::parse(None, manifest.as_bytes()).unwrap();
    assert_eq!(manifest.media_type, media_type::DOCKER_MANIFEST);
    let expected = [reference("config", Config, true), reference("1", Layer, true)];
    assert_eq!(manifest.references, expected);
}

#[test]
fn fields_of_others_are_ignored() {
    let layer = with(layer("1"), "data", json!("not even base64"));
    let layer = with(layer, "org.example", json!({"deep": [1, 2, {"er": null}]}));
    let manifest = with(image(&[layer]), "org.example.custom", json!({"digest": digest("x")}));
    let manifest = with(manifest, "annotations", json!({"a": "b", "": ""}));
    let manifest = parse(&manifest).unwrap();
    let expected = [
        reference("config", Config, true),
        reference("1", Layer, true),
        // It may be needed by who knows the field.
        reference("x", Any, false),
    ];
    assert_eq!(manifest.references, expected);
    assert_eq!(manifest.annotations.len(), 2);
    assert!(parse(&with(image(&[]), "annotations", Value::Null)).unwrap().annotations.is_empty());
}

#[test]
fn an_error_does_not_repeat_megabytes() {
    let huge = "x".repeat(1 << 20);
    let layers = json!([with(layer("1"), "digest", json!(huge))]);
    let manifests = [
        with(image(&[]), "mediaType", json!(huge)),
        with(image(&[]), "layers", layers),
        with(image(&[]), "layers", json!(huge)),
    ];
    for manifest in manifests {
        let error = parse(&manifest).unwrap_err();
        assert!(error.to_string().len() < 1000);
    }
    let mismatch = with(image(&[]), "mediaType", json!(huge));
    assert!(parse_as("a/b", &mismatch).unwrap_err().to_string().len() < 1000);
}

#[test]
fn a_descriptor_is_written_without_what_is_absent() {
    let descriptor = Descriptor::new(&MediaType::OCI_EMPTY, digest("{}"), 2);
    let json = json!({"mediaType": media_type::OCI_EMPTY, "digest": digest("{}"), "size": 2});
    assert_eq!(serde_json::to_value(&descriptor).unwrap(), json);
    assert_eq!(serde_json::from_value::<Descriptor>(json).unwrap(), descriptor);

    let full = json!({
        "mediaType": "application/x", "digest": digest("x"), "size": 1,
        "artifactType": "application/y", "annotations": {"k": "v"}, "urls": ["https://example.com"],
        "data": "eA==", "platform": {"os": "linux"},
    });
    let descriptor: Descriptor = serde_json::from_value(full.clone()).unwrap();
    assert_eq!(serde_json::to_value(descriptor).unwrap(), full);

    let sparse = json!({"digest": digest("x"), "size": null, "annotations": null, "urls": null,
                        "mediaType": null, "unknown": 1});
    let descriptor: Descriptor = serde_json::from_value(sparse).unwrap();
    assert_eq!((descriptor.media_type.as_str(), descriptor.size), ("", 0));
    for bad in [json!({}), json!({"digest": "x"}), json!({"digest": digest("x"), "size": -1})] {
        assert!(serde_json::from_value::<Descriptor>(bad).is_err());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let texts = prop_oneof!["\\PC{0,4}", Just(digest("1").to_string()), Just("md5:00".to_owned())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts.prop_map(Value::from),
        Just(layer("1")),
    ];
    let keys = prop::sample::select(vec![
        "mediaType",
        "config",
        "layers",
        "blobs",
        "manifests",
        "subject",
        "digest",
        "size",
        "urls",
        "annotations",
        "artifactType",
        "x",
    ]);
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let key = keys.clone().prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

fn any_type() -> impl Strategy<Value = Option<MediaType>> {
    let types = [
        "application/x",
        media_type::OCI_IMAGE_MANIFEST,
        media_type::OCI_IMAGE_INDEX,
        media_type::OCI_ARTIFACT_MANIFEST,
        media_type::DOCKER_MANIFEST,
    ];
    let some = prop::sample::select(types.to_vec()).prop_map(|text| Some(text.parse().unwrap()));
    prop_oneof![1 => Just(None), 4 => some]
}

proptest! {
    /// GC reads a stored manifest with the media type that the writer found, and must come to the
    /// same references.
    #[test]
    fn gc_finds_the_references_that_the_writer_found(json in any_json(), content_type in any_type()) {
        let bytes = json.to_string().into_bytes();
        if let Ok(written) = Manifest::parse(content_type.as_ref(), &bytes) {
            let collected = Manifest::parse_stored(&written.media_type, &bytes);
            prop_assert_eq!(collected, Ok(written.clone()));
            let mut digests: Vec<_> = written.references.iter().map(|r| &r.digest).collect();
            digests.sort();
            digests.dedup();
            prop_assert_eq!(digests.len(), written.references.len(), "each digest once");
        }
    }

    /// By no media type does a manifest refer to less.
    #[test]
    fn what_is_referred_to_does_not_depend_on_the_media_type(
        json in any_json(),
        one in any_type(),
        other in any_type(),
    ) {
        let bytes = json.to_string().into_bytes();
        let digests = |content_type: Option<MediaType>| -> Option<Vec<Digest>> {
            let manifest = Manifest::parse(content_type.as_ref(), &bytes).ok()?;
            let mut digests: Vec<_> = manifest.references.into_iter().map(|r| r.digest).collect();
            digests.sort();
            Some(digests)
        };
        if let (Some(one), Some(other)) = (digests(one), digests(other)) {
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn any_bytes_are_a_manifest_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        content_type in any_type(),
    ) {
        let _ = Manifest::parse(content_type.as_ref(), &bytes);
    }
}
