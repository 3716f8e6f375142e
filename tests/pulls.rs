//! Pulls over HTTP: which requests count, and what a server leaves when it stops; and with the real binary, from a pull to
//! what retention says of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use futures::future::join_all;
use jreg_config::Settings;
use jreg_oci::{Algorithm, Digest, RepositoryName, Tag};
use jreg_registry::{ManifestPush, Registry, RegistryOptions, TouchPolicy};
use jreg_storage::testing::{Fault, FaultyStore};
use jreg_storage::{ErrorKind, ListRequest, MemoryStore, Store, SystemClock};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{
    Client, Image, Process, Request, Scenario, ServerSpec, StoreKind, TestServer, push_image,
};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const APP: &str = "/v2/contract/app";

/// The tags and digests that a server with these settings has noted when it has stopped.
async fn noted(change: impl FnOnce(&mut Settings), pulls: impl AsyncFnOnce(Client)) -> Vec<String> {
    let store = Arc::new(MemoryStore::new());
    let mut spec = ServerSpec::default().store(StoreKind::Given(store.clone()));
    change(&mut spec.settings);
    let server = TestServer::start(spec).await;
    let mut scenario = Scenario::new("app", server.client());
    for seed in 1..=4 {
        scenario.run(push_image(&format!("v{seed}"), &Image::plain(seed))).await;
    }
    pulls(server.client()).await;
    server.stop().await;
    let mut noted = Vec::new();
    for entry in store.list(&ListRequest::below("pulls/")).await.unwrap().entries {
        if !entry.key.as_str().as_bytes()[6].is_ascii_digit() {
            continue;
        }
        let record = store.get(&entry.key).await.unwrap().bytes;
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let pulls: BTreeMap<String, BTreeMap<String, u32>> =
            serde_json::from_value(record["pulls"].clone()).unwrap();
        assert_eq!(pulls.keys().collect::<Vec<_>>(), ["contract/app"]);
        noted.extend(pulls.into_values().flatten().map(|(reference, _)| reference));
    }
    noted.sort();
    noted
}

async fn send(client: &Client, method: &str, path: &str, agent: &str) -> u16 {
    let mut request = Request::new(method, format!("{APP}/{path}")).header("User-Agent", agent);
    if method == "HEAD" {
        // Otherwise the client compares it with a GET.
        request = request.header("Range", "bytes=0-0");
    }
    client.send(request).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_tags_and_gets_of_their_digests_are_pulls_and_nothing_else() {
    let (image, other) = (Image::plain(3), Image::plain(4));
    let digest = image.manifest.digest();
    let noted = noted(
        |settings| {
            settings.track_pulls = true;
            settings.pulls_agents_except = vec!["trivy/".to_owned()];
        },
        async |client| {
            let docker = "docker/28";
            assert_eq!(send(&client, "HEAD", "manifests/v1", docker).await, 200);
            assert_eq!(send(&client, "GET", "manifests/v2", docker).await, 200);
            assert_eq!(send(&client, "GET", &format!("manifests/{digest}"), docker).await, 200);
            // None of these.
            assert_eq!(send(&client, "GET", "manifests/v3", "trivy/0.60").await, 200);
            let of_other = format!("manifests/{}", other.manifest.digest());
            assert_eq!(send(&client, "HEAD", &of_other, docker).await, 200);
            assert_eq!(send(&client, "GET", "manifests/none", docker).await, 404);
            let blob = format!("blobs/{}", image.blobs[0].digest());
            assert_eq!(send(&client, "GET", &blob, docker).await, 200);
            assert_eq!(send(&client, "GET", &format!("referrers/{digest}"), docker).await, 200);
            assert_eq!(send(&client, "GET", "tags/list", docker).await, 200);
        },
    );
    let mut expected = vec![digest.clone(), "v1".to_owned(), "v2".to_owned()];
    expected.sort();
    assert_eq!(Box::pin(noted).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_noted_of_excepted_identities_or_without_a_setting() {
    let pull = async |client: Client| {
        assert_eq!(send(&client, "GET", "manifests/v1", "docker/28").await, 200);
    };
    let excepted = noted(
        |settings| {
            settings.track_pulls = true;
            settings.pulls_identities_except = vec!["anonymous".to_owned()];
        },
        pull,
    );
    assert_eq!(Box::pin(excepted).await, [""; 0]);
    assert_eq!(Box::pin(noted(|_| {}, pull)).await, [""; 0]);
}

#[test]
fn a_pull_is_shown_by_explain_and_the_history_and_survives_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (rules, data) = (folder.path().join("lifecycle.toml"), folder.path().join("data"));
    let text =
        "[[retention]]\nrepositories = ['**']\n[[retention.keep]]\npulled_within = '30d'\n[end]\n";
    std::fs::write(&rules, text).unwrap();
    let rules = rules.to_str().unwrap();
    let process = Process::start_with(BINARY, &data, &["--lifecycle", rules]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = process.client();
        Scenario::new("app", client.clone()).run(push_image("v1", &Image::plain(1))).await;
        assert_eq!(send(&client, "GET", "manifests/v1", "docker/28").await, 200);
    });
    let jreg = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).args(["--storage", data.to_str().unwrap()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Beside the server, which has not written it yet, and alone, after a stop.
    let explained = jreg(&["explain", "contract/app:v1"]);
    assert!(explained.contains("pulled within 30 days (pushed "), "{explained}");
    assert!(explained.contains(", pulled ") && explained.contains("unless pulled"), "{explained}");
    process.terminate();
    let history = jreg(&["tag", "history", "contract/app:v1"]);
    assert!(history.lines().nth(1).unwrap().ends_with("  last pull"), "{history}");
    let preview = jreg(&["lifecycle", "preview", "--lifecycle", rules]);
    assert!(preview.contains(", pulled ") && preview.contains("unless pulled"), "{preview}");
}

const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

async fn instance(store: Arc<dyn Store>) -> Registry {
    let clock = Arc::new(SystemClock::new());
    let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    let registry = registry.with_pull_tracking(true);
    registry.update_pulls_since().await.unwrap();
    registry
}

async fn push_tag(registry: &Registry, tag: &str) {
    let push = ManifestPush {
        reference: tag.parse().unwrap(),
        tags: Vec::new(),
        media_type: None,
        bytes: INDEX.into(),
        condition: None,
    };
    registry.repository("app".parse().unwrap()).manifest_put(push).await.unwrap();
}

/// Pulls a tag, and writes that down.
async fn pull(registry: &Registry, tag: &str) {
    let (repository, reference) =
        (registry.repository("app".parse().unwrap()), tag.parse().unwrap());
    let found = repository.manifest_get(&reference, TouchPolicy::Never).await.unwrap();
    repository.record_pull(&reference, &found);
    assert_eq!(registry.flush_pulls().await.unwrap().times, 1);
}

/// Whether an instance that remembers nothing knows of a pull of the tag.
async fn is_known(store: &Arc<dyn Store>, tag: &str) -> bool {
    let (name, tag): (RepositoryName, Tag) = ("app".parse().unwrap(), tag.parse().unwrap());
    let digest = Digest::of(Algorithm::Sha256, INDEX.as_bytes());
    let last = instance(Arc::clone(store)).await.last_pull(&name, &tag, &digest).await;
    last.unwrap().is_some()
}

/// Each flushes while the others merge what there is.
#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_bucket_that_merge_at_once_lose_nothing() {
    let bucket = S3Server::start(S3Spec::default()).await;
    let store: Arc<dyn Store> = bucket.store();
    let registries = join_all((0..3).map(|_| instance(store.clone()))).await;
    for number in 0..3 {
        for round in 0..6 {
            push_tag(&registries[0], &format!("t{number}-{round}")).await;
        }
    }
    let working = registries.iter().enumerate().map(|(number, registry)| async move {
        for round in 0..6 {
            pull(registry, &format!("t{number}-{round}")).await;
            registry.merge_pulls().await.unwrap();
        }
    });
    join_all(working).await;
    for number in 0..3 {
        for round in 0..6 {
            assert!(is_known(&store, &format!("t{number}-{round}")).await, "{number} {round}");
        }
    }
    let left = store.list(&ListRequest::below("pulls/")).await.unwrap().entries;
    let is_object = |key: &str| key.as_bytes()[6].is_ascii_digit();
    assert!(left.iter().all(|entry| !is_object(entry.key.as_str())), "{left:?}");
}

/// A merge that ends at any of its requests to a bucket, done or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_to_a_bucket_survives_a_stop_of_a_merge_at_every_request() {
    for is_applied in [false, true] {
        for stop in 1.. {
            let bucket = S3Server::start(S3Spec::default()).await;
            let store: Arc<dyn Store> = bucket.store();
            let faults = Arc::new(FaultyStore::new(store.clone()));
            let registry = instance(faults.clone()).await;
            for tag in ["v1", "v2"] {
                push_tag(&registry, tag).await;
                pull(&registry, tag).await;
            }
            let fault = match is_applied {
                false => Fault::fail(ErrorKind::Refused),
                true => Fault::lose_response(ErrorKind::Refused),
            };
            faults.inject(fault.nth(stop).from_then_on());
            let merged = registry.merge_pulls().await;
            for _ in 0..2 {
                for tag in ["v1", "v2"] {
                    assert!(is_known(&store, tag).await, "{tag} {stop}");
                }
                instance(store.clone()).await.merge_pulls().await.unwrap();
            }
            if merged.is_ok() {
                assert!(stop > 8, "{stop}");
                break;
            }
        }
    }
}
