//! Referrers of a manifest (end-12).

use jreg_testkit::{
    Image, Manifest, Scenario, ServerSpec, Step, delete, get, head, index_of, media, push_image,
    push_manifest, sha256, sha512,
};
use serde_json::{Value, json};

use crate::contract::listings::follow;
use crate::contract::manifests::manifest;
use crate::contract::on_each;

const SBOM: &str = "application/vnd.example.sbom.v1";
const SIGNATURE: &str = "application/vnd.example.signature.v1";

fn subject() -> Manifest {
    Image::plain(1).manifest
}

fn referrers(query: &str) -> Step {
    get(&format!("/v2/{{repo}}/referrers/{}{query}", subject().digest()))
        .is(200)
        .has("Content-Type", media::INDEX)
}

/// A referrer of the subject.
fn referrer(seed: u64, artifact_type: &'static str) -> Image {
    Image::referrer(seed, &subject(), artifact_type)
}

/// The descriptor of a referrer in a listing.
fn entry(image: &Image, artifact_type: &str) -> Value {
    let content: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let mut entry = image.manifest.descriptor();
    entry["artifactType"] = artifact_type.into();
    entry["annotations"] = content["annotations"].clone();
    entry
}

fn push(image: &Image) -> Vec<Step> {
    push_image(&image.manifest.digest(), image)
}

fn sorted(mut entries: Vec<Value>) -> Vec<Value> {
    entries.sort_by_key(|entry| entry["digest"].as_str().unwrap().to_owned());
    entries
}

fn index_with_subject(extra: &Value) -> Manifest {
    let mut index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [],
        "subject": subject().descriptor(), "annotations": {"a": "b"}});
    index.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Manifest::compact(media::INDEX, &index)
}

contract! {
    c09_unknown_subject_is_an_empty_index: steps![
        referrers("")
            .json("/schemaVersion", 2)
            .json("/mediaType", media::INDEX)
            .json("/manifests", json!([]))
            .lacks("Link")
            .lacks("OCI-Filters-Applied"),
        push_image("v1", &Image::plain(1)),
        referrers("").json("/manifests", json!([])),
        head(&format!("/v2/{{repo}}/referrers/{}", subject().digest())).is(200),
    ];

    c09_ping_with_a_zero_digest: steps![
        get(&format!("/v2/{{repo}}/referrers/sha256:{}", "0".repeat(64)))
            .is(200)
            .has("Content-Type", media::INDEX)
            .json("/manifests", json!([])),
    ];

    c09_bad_digest_is_400: steps![
        get("/v2/{repo}/referrers/sha256:bad").is(400).code("DIGEST_INVALID"),
        get("/v2/{repo}/referrers/latest").is(400).code("DIGEST_INVALID"),
        get("/v2/{repo}/referrers/md5:d41d8cd98f00b204e9800998ecf8427e").is(400).code("DIGEST_INVALID"),
    ];

    c09_referrer_is_listed_with_type_and_annotations: steps![
        push_image("v1", &Image::plain(1)),
        push(&referrer(2, SBOM)),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
    ];

    c09_push_returns_the_subject: steps![
        referrer(2, SBOM).blobs.into_iter().map(|blob| jreg_testkit::push_blob(blob.bytes)).collect::<Vec<_>>(),
        push_manifest("sbom", &referrer(2, SBOM).manifest).has("OCI-Subject", &subject().digest()),
        push_manifest(&referrer(2, SBOM).manifest.digest(), &referrer(2, SBOM).manifest).has("OCI-Subject", &subject().digest()),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
    ];

    c09_referrer_may_come_before_its_subject: steps![
        push(&referrer(2, SBOM)),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
        push_image("v1", &Image::plain(1)),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
        delete(&manifest(&subject().digest())).is(202),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
    ];

    c09_type_of_the_configuration_stands_in: {
        let mut image = jreg_testkit::ImageSpec {
            seed: 3, layers: 0, config_type: "application/vnd.example.config.v1",
            subject: Some(subject().descriptor()), ..Default::default()
        };
        let plain = image.build();
        image.artifact_type = Some("");
        let empty = image.build();
        let mut expected = vec![plain.manifest.descriptor(), empty.manifest.descriptor()];
        for entry in &mut expected {
            entry["artifactType"] = "application/vnd.example.config.v1".into();
        }
        steps![push(&plain), push(&empty), referrers("").json("/manifests", sorted(expected))]
    };

    c09_index_without_type_has_none: {
        let (plain, typed) = (index_with_subject(&json!({})), index_with_subject(&json!({"artifactType": SBOM})));
        let mut expected = vec![plain.descriptor(), typed.descriptor()];
        expected[1]["artifactType"] = SBOM.into();
        for entry in &mut expected {
            entry["annotations"] = json!({"a": "b"});
        }
        steps![
            push_manifest("plain", &plain).has("OCI-Subject", &subject().digest()),
            push_manifest("typed", &typed),
            referrers("").json("/manifests", sorted(expected)),
        ]
    };

    c09_filter_by_type: steps![
        push(&referrer(2, SBOM)),
        push(&referrer(3, SIGNATURE)),
        referrers(&format!("?artifactType={SBOM}"))
            .has("OCI-Filters-Applied", "artifactType")
            .json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
        referrers(&format!("?artifactType={}", SBOM.replace('/', "%2F")))
            .has("OCI-Filters-Applied", "artifactType")
            .json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
        referrers("?artifactType=application/none")
            .has("OCI-Filters-Applied", "artifactType")
            .json("/manifests", json!([])),
        referrers("")
            .lacks("OCI-Filters-Applied")
            .json("/manifests", sorted(vec![entry(&referrer(2, SBOM), SBOM), entry(&referrer(3, SIGNATURE), SIGNATURE)])),
    ];

    c13_deleted_referrer_is_not_listed: steps![
        push(&referrer(2, SBOM)),
        push(&referrer(3, SIGNATURE)),
        delete(&manifest(&referrer(2, SBOM).manifest.digest())).is(202),
        referrers("").json("/manifests", json!([entry(&referrer(3, SIGNATURE), SIGNATURE)])),
        push(&referrer(2, SBOM)),
        delete(&manifest(&referrer(3, SIGNATURE).manifest.digest())).is(202),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
    ];

    c13_untagged_referrer_is_still_listed: steps![
        push_image("sbom", &referrer(2, SBOM)),
        delete(&manifest("sbom")).is(202),
        referrers("").json("/manifests", json!([entry(&referrer(2, SBOM), SBOM)])),
    ];

    c09_referrers_stay_in_their_repository: steps![
        push(&referrer(2, SBOM)),
        get(&format!("/v2/elsewhere/referrers/{}", subject().digest())).is(200).json("/manifests", json!([])),
    ];

    c22_subject_by_sha512: {
        let digest = sha512(&subject().bytes);
        let mut descriptor = subject().descriptor();
        descriptor["digest"] = digest.clone().into();
        let image = jreg_testkit::ImageSpec { seed: 5, layers: 0, subject: Some(descriptor), artifact_type: Some(SBOM), ..Default::default() }.build();
        steps![
            image.blobs.iter().map(|blob| jreg_testkit::push_blob(blob.bytes.clone())).collect::<Vec<_>>(),
            push_manifest("v1", &image.manifest).has("OCI-Subject", &digest),
            get(&format!("/v2/{{repo}}/referrers/{digest}")).is(200).json("/manifests/0/digest", image.manifest.digest()),
            referrers("").json("/manifests", json!([])),
        ]
    };

    subject_that_is_malformed_is_refused: {
        let bad = index_with_subject(&json!({"subject": {"mediaType": media::MANIFEST, "digest": "sha256:bad", "size": 1}}));
        steps![push_manifest("v1", &bad).is(400).code("MANIFEST_INVALID"), get(&manifest("v1")).is(404)]
    };

    c23_fallback_tag_is_an_ordinary_tag: {
        let tag = subject().digest().replace(':', "-");
        let fallback = index_of(&[entry(&referrer(2, SBOM), SBOM)]);
        steps![push_manifest(&tag, &fallback), get(&manifest(&tag)).is(200).gives(fallback.bytes), get(&format!("/v2/{{repo}}/referrers/{}", sha256("other"))).is(200)]
    };
}

#[test]
fn c09_pages_of_referrers_lead_to_every_one() {
    on_each(
        || ServerSpec::with(|s| s.page_items_max = 3),
        |server| async move {
            let client = server.client();
            let mut scenario = Scenario::new("many", client.clone());
            let of = |seed| if seed % 2 == 0 { SBOM } else { SIGNATURE };
            for seed in 10..20 {
                scenario.run(push(&referrer(seed, of(seed)))).await;
            }
            let all = (10..20).map(|seed| entry(&referrer(seed, of(seed)), of(seed)));
            let first = format!("/v2/contract/many/referrers/{}", subject().digest());
            let (found, pages) = follow(&client, &first, "/manifests").await;
            assert_eq!(sorted(found), sorted(all.clone().collect()));
            assert_eq!(pages, 4);
            let (found, _) =
                follow(&client, &format!("{first}?artifactType={SBOM}"), "/manifests").await;
            let sboms = all.filter(|entry| entry["artifactType"] == SBOM);
            assert_eq!(sorted(found), sorted(sboms.collect()));
            server.stop().await;
        },
    );
}

/// Descriptors contain the annotations of their manifests, which may be large: a page has a maximum
/// of bytes, and a `Link` to the rest.
#[test]
fn c09_pages_of_large_referrers_are_bounded_in_bytes() {
    const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024 + 1024;
    on_each(ServerSpec::default, |server| async move {
        let client = server.client();
        let mut scenario = Scenario::new("large", client.clone());
        let mut all = Vec::new();
        for number in 0..5 {
            let note = format!("{number}{}", "n".repeat(1000));
            let annotations: serde_json::Map<String, Value> =
                (0..1300).map(|key| (key.to_string(), note.clone().into())).collect();
            let large = index_with_subject(&json!({"annotations": annotations}));
            all.push(Value::from(large.digest()));
            scenario.run(steps![push_manifest(&large.digest(), &large)]).await;
        }
        all.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        let first = format!("/v2/contract/large/referrers/{}", subject().digest());
        let (found, pages) = follow(&client, &first, "/manifests").await;
        let digests: Vec<_> = found.iter().map(|entry| entry["digest"].clone()).collect();
        assert_eq!((digests, pages), (all, 2));
        assert!(found.iter().all(|entry| entry["annotations"].as_object().unwrap().len() == 1300));
        let bytes = client.get(&first).await.body.len();
        assert!((PAGE_BYTES_MAX / 2..=PAGE_BYTES_MAX).contains(&bytes), "{bytes}");
        server.stop().await;
    });
}
