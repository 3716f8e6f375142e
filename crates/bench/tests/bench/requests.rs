//! What goes over the wire, as a registry sees it.

use crate::common::{block_on, one_by_one};
use crate::fake::{FakeRegistry, FakeRequest, response_with};

/// Methods and what follows the repository, with digests and uploads as one word each.
fn steps(asked: &[FakeRequest]) -> Vec<String> {
    let step = |asked: &FakeRequest| {
        let (_, rest) = asked.target.split_once("/0000000000000007/")?;
        let rest = rest.split('?').next()?;
        let rest = match rest.rsplit_once('/')? {
            (parent, last) if last.starts_with("sha256:") => format!("{parent}/DIGEST"),
            ("blobs/uploads", last) if !last.is_empty() => "blobs/uploads/ID".to_owned(),
            ("manifests", _) => "manifests/TAG".to_owned(),
            _ => rest.to_owned(),
        };
        Some(format!("{} {rest}", asked.method))
    };
    asked.iter().filter_map(step).collect()
}

/// What was asked for the operations that count: the last of all.
async fn last(workload: &str, requests: usize) -> Vec<FakeRequest> {
    let fake = FakeRegistry::start().await;
    let run = one_by_one(&fake.url(), workload, |_| {}).await;
    assert_eq!(run.results[0].errors.len(), 0, "{:?}", run.results);
    let asked = fake.asked();
    asked[asked.len() - requests..].to_vec()
}

#[test]
fn a_docker_push_is_post_patch_of_unknown_length_and_an_empty_put() {
    block_on(async {
        let asked = last("push-docker-4k", 3).await;
        let expected = ["POST blobs/uploads/", "PATCH blobs/uploads/ID", "PUT blobs/uploads/ID"];
        assert_eq!(steps(&asked), expected);
        let header = |asked: &FakeRequest, name| {
            asked.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&asked[0], "content-length").unwrap(), "0");
        assert_eq!(header(&asked[1], "transfer-encoding").unwrap(), "chunked");
        assert_eq!(header(&asked[1], "content-length"), None);
        assert_eq!(asked[1].body.len(), 4096);
        assert_eq!(header(&asked[2], "content-length").unwrap(), "0");
        assert!(asked[2].target.contains("?state=x&digest=sha256:"), "{}", asked[2].target);
    });
}

#[test]
fn a_push_of_a_known_digest_is_post_and_put_with_the_bytes() {
    block_on(async {
        let asked = last("push-known-4k", 2).await;
        assert_eq!(steps(&asked), ["POST blobs/uploads/", "PUT blobs/uploads/ID"]);
        assert_eq!(asked[1].headers["content-length"], "4096");
        assert_eq!(asked[1].body.len(), 4096);
    });
}

#[test]
fn an_image_is_pushed_layers_first_then_configuration_then_manifest() {
    block_on(async {
        let asked = last("image-push-5", 25).await;
        let steps = steps(&asked);
        let count = |step: &str| steps[..20].iter().filter(|other| *other == step).count();
        let pushed = [
            "HEAD blobs/DIGEST",
            "POST blobs/uploads/",
            "PATCH blobs/uploads/ID",
            "PUT blobs/uploads/ID",
        ];
        for step in pushed {
            assert_eq!(count(step), 5, "the layers: {step}");
        }
        assert_eq!(steps[20..24], pushed, "the configuration");
        assert_eq!(steps[24], "PUT manifests/TAG");
        let manifest: serde_json::Value = serde_json::from_slice(&asked[24].body).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 5);
        assert_eq!(asked[24].headers["content-type"], manifest["mediaType"].as_str().unwrap());
    });
}

#[test]
fn an_image_is_pulled_tag_first_then_manifest_configuration_and_layers() {
    block_on(async {
        let asked = last("image-pull-5", 8).await;
        let steps = steps(&asked);
        assert_eq!(steps[..3], ["HEAD manifests/TAG", "GET manifests/DIGEST", "GET blobs/DIGEST"]);
        assert!(steps[3..].iter().all(|step| step == "GET blobs/DIGEST"), "{steps:?}");
        let targets: std::collections::HashSet<_> =
            asked.iter().map(|asked| &asked.target).collect();
        assert_eq!(targets.len(), 8, "each layer is asked for once");
        assert!(
            asked[1].headers["accept"].to_str().unwrap().contains("vnd.oci.image.index.v1+json")
        );
    });
}

#[test]
fn a_tag_put_changes_what_its_tag_names() {
    block_on(async {
        let fake = FakeRegistry::start().await;
        one_by_one(&fake.url(), "tag-put", |plan| plan.amount = jreg_bench::PlanAmount::Count(600))
            .await;
        let mut named = std::collections::HashMap::new();
        let asked = fake.asked();
        let moved: Vec<_> = asked.iter().filter(|asked| asked.target.contains("/moved-")).collect();
        assert_eq!(moved.len(), 601);
        for FakeRequest { target, body, .. } in moved {
            assert_ne!(named.insert(target, body), Some(body), "{target} named that already");
        }
    });
}

#[test]
fn no_content_is_pushed_twice() {
    block_on(async {
        let fake = FakeRegistry::start().await;
        one_by_one(&fake.url(), "push-known-4k,push-docker-4k,image-push-5", |plan| {
            plan.rounds = 2
        })
        .await;
        let asked = fake.asked();
        let digests = asked.iter().filter_map(|asked| asked.target.split_once("digest="));
        let digests: Vec<_> = digests.map(|(_, digest)| digest).collect();
        let unique: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(unique.len(), digests.len());
        // Twice 5 and 5 single ones, and 5 times 6 parts of images.
        assert_eq!(digests.len(), 2 * (5 + 5 + 30));
    });
}

#[test]
fn two_runs_share_neither_content_nor_repositories() {
    block_on(async {
        let fake = FakeRegistry::start().await;
        one_by_one(&fake.url(), "push-known-4k", |_| {}).await;
        let first = fake.asked().len();
        one_by_one(&fake.url(), "push-known-4k", |plan| plan.seed = 8).await;
        let targets: Vec<_> = fake.asked().into_iter().map(|asked| asked.target).collect();
        let (one, other) = targets.split_at(first);
        assert!(one.iter().any(|target| target.contains("/bench/test/0000000000000007/")));
        assert!(other.iter().all(|target| target == "/v2/" || !one.contains(target)));
    });
}

#[test]
fn an_absolute_location_is_followed_whatever_name_the_registry_has_for_itself() {
    block_on(async {
        let fake = FakeRegistry::misbehaving(|asked| {
            let begun = asked.method == http::Method::POST;
            let path = asked.target.clone();
            begun.then(|| {
                response_with(202, "location", &format!("https://other.example{path}9?s=1"))
            })
        })
        .await;
        let run = one_by_one(&fake.url(), "push-known-4k", |_| {}).await;
        assert_eq!(run.results[0].operations, 4);
        assert!(fake.asked().last().unwrap().target.contains("/uploads/9?s=1&digest="));
    });
}
