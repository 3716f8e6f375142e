//! Events from a push to a sink: in each kind of store, through restarts, kill -9 and an instance that
//! takes over; `jreg events` with the real binary.

#[path = "../../crates/events/tests/receiver/mod.rs"]
pub(crate) mod receiver;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jreg_config::{Settings, read_file};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{
    Client, Image, Process, Scenario, ServerSpec, StoreKind, TestServer, delete, push_image,
    push_manifest,
};
use serde_json::Value;

use self::receiver::{Receiver, Reply};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const PATIENCE: Duration = Duration::from_secs(30);

fn config(receiver: &Receiver) -> String {
    format!(
        "events-interval = '200ms'\n[[events.sink]]\nname = 'scanner'\nurl = '{}'\n\
         timeout = '2s'\nsecret = 'a secret of some length'\n",
        receiver.url()
    )
}

fn settings(receiver: &Receiver) -> Settings {
    Settings::resolve(read_file(Path::new("jreg.toml"), &config(receiver)).unwrap()).unwrap()
}

fn spec(receiver: &Receiver, store: StoreKind) -> ServerSpec {
    ServerSpec { settings: settings(receiver), ..ServerSpec::default() }.store(store)
}

/// What was received, as type and subject, each id once.
fn firsts(receiver: &Receiver) -> Vec<(String, String)> {
    let mut ids = Vec::new();
    let mut events = Vec::new();
    for body in receiver.bodies() {
        if !ids.contains(&body["id"]) {
            ids.push(body["id"].clone());
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            events.push((text("type"), text("subject")));
        }
    }
    events
}

async fn received(receiver: &Receiver, count: usize) -> Vec<(String, String)> {
    let until = Instant::now() + PATIENCE;
    loop {
        let events = firsts(receiver);
        if events.len() >= count {
            return events;
        }
        assert!(Instant::now() < until, "{count} events do not come: {events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The events of each tag have their order, and those of manifests any beside them.
#[track_caller]
fn assert_same(mut events: Vec<(String, String)>, mut expected: Vec<(String, String)>) {
    let of_tags = |events: &[(String, String)]| {
        let mut of_tags: Vec<_> =
            events.iter().filter(|(kind, _)| kind.contains(".tag.")).cloned().collect();
        // Stable: within a tag the order stays.
        of_tags.sort_by(|(_, a), (_, b)| a.cmp(b));
        of_tags
    };
    assert_eq!(of_tags(&events), of_tags(&expected));
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
}

/// Pushes an image, pushes it again, moves its tag and deletes it: in the events' words.
async fn change(client: Client, tag: &str) -> Vec<(String, String)> {
    let (first, second) = (Image::plain(1), Image::plain(2));
    let mut scenario = Scenario::new("app", client);
    scenario.run(push_image(tag, &first)).await;
    scenario.step(push_manifest(tag, &first.manifest).is(201)).await;
    scenario.run(push_image(tag, &second)).await;
    scenario.step(delete(&format!("/v2/{{repo}}/manifests/{tag}")).is(202)).await;
    let (name, tagged) = ("contract/app", format!("contract/app:{tag}"));
    let of = |kind: &str, subject: String| (format!("io.jreg.{kind}"), subject);
    vec![
        of("manifest.pushed", format!("{name}@{}", first.manifest.digest())),
        of("tag.created", tagged.clone()),
        of("manifest.pushed", format!("{name}@{}", second.manifest.digest())),
        of("tag.moved", tagged.clone()),
        of("tag.deleted", tagged),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_a_sink_from_every_kind_of_store() {
    for store in [StoreKind::Memory, StoreKind::Folder, StoreKind::Bucket] {
        let receiver = Receiver::start().await;
        let server = TestServer::start(spec(&receiver, store)).await;
        // A sink gets what comes after its first start.
        wait_for_cursor(&server).await;
        let expected = change(server.client(), "v1").await;
        assert_same(received(&receiver, expected.len()).await, expected);
        let request = receiver.requests().remove(0);
        assert!(request.signature.unwrap().starts_with("t="));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["data"]["actor"], "anonymous");
        assert!(body["data"]["request"].is_string(), "{body}");
        let metrics = server.client().get("/metrics").await;
        let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
        let sent = r#"jreg_events_deliveries_total{sink="scanner",outcome="sent"} 5"#;
        assert!(metrics.contains(sent), "{metrics}");
        server.stop().await;
    }
}

async fn wait_for_cursor(server: &TestServer) {
    let until = Instant::now() + PATIENCE;
    while !server.entries().await.iter().any(|entry| entry.ends_with("events/sinks/scanner")) {
        // A store in memory, a folder and a bucket name it alike.
        assert!(Instant::now() < until, "there is no cursor");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sink_nothing_about_events_is_written() {
    let server = TestServer::start(ServerSpec::default()).await;
    change(server.client(), "v1").await;
    let entries = server.entries().await;
    assert!(entries.iter().all(|entry| !entry.contains("events")), "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_down_slows_no_push_and_gets_everything_after_a_restart() {
    let receiver = Receiver::start().await;
    receiver.reply((0..1000).map(|_| Reply::Hang));
    let server = TestServer::start(spec(&receiver, StoreKind::Folder)).await;
    wait_for_cursor(&server).await;
    // The sink accepts connections and never responds: a push that waited for it would fail with it.
    let expected = change(server.client(), "v1").await;
    let server = server.restart().await;
    receiver.work();
    receiver.forget();
    assert_same(received(&receiver, expected.len()).await, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_stopped_is_replaced_by_another_and_both_queue() {
    let bucket = S3Server::start(S3Spec::default()).await;
    let receiver = Receiver::start().await;
    let start = || TestServer::start(spec(&receiver, StoreKind::Given(bucket.store())));
    let (one, two) = (start().await, start().await);
    wait_for_cursor(&one).await;
    let mut expected = change(one.client(), "v1").await;
    // The same images: only the events of the tag.
    let of_two = change(two.client(), "v2").await.into_iter();
    expected.extend(of_two.filter(|(kind, _)| kind.contains("tag")));
    assert_same(received(&receiver, expected.len()).await, expected);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_misbehaves_in_every_way_gets_everything_in_the_end() {
    let receiver = Receiver::start().await;
    let server = TestServer::start(spec(&receiver, StoreKind::Memory)).await;
    wait_for_cursor(&server).await;
    let failures = [Reply::Redirect("/elsewhere"), Reply::Close, Reply::RetryAfter(503, "1")];
    receiver.reply(failures.into_iter().chain([Reply::Endless, Reply::Status(400)]));
    let expected = change(server.client(), "v1").await;
    assert_same(received(&receiver, expected.len()).await, expected);
    assert!(receiver.paths().iter().all(|path| path == "/hook"), "{:?}", receiver.paths());
    let is_cloud_event =
        |content_type: &str| content_type.starts_with("application/cloudevents+json");
    assert!(receiver.requests().iter().all(|request| is_cloud_event(&request.content_type)));
    server.stop().await;
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test)
}

fn events(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("events").args(args).arg("--storage").arg(folder).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn killed_between_pushes_and_deliveries_the_binary_sends_every_event() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::start().await;
        let path = folder.path().join("jreg.toml");
        std::fs::write(&path, config(&receiver)).unwrap();
        let (flags, root) = (["--config", path.to_str().unwrap()], folder.path().join("root"));
        // The cursor of the sink is made by the first run.
        let process = Process::start_with(BINARY, &root, &flags);
        let mut expected = change(process.client(), "v0").await;
        received(&receiver, expected.len()).await;
        let mut process = process;
        for round in 1..6_u64 {
            receiver.reply([Reply::Status(503)]);
            let events = change(process.client(), &format!("v{round}")).await.into_iter();
            expected.extend(events.filter(|(kind, _)| kind.contains("tag")));
            tokio::time::sleep(Duration::from_millis(round * 37 % 120)).await;
            process.kill();
            process = Process::start_with(BINARY, &root, &flags);
        }
        assert_same(received(&receiver, expected.len()).await, expected.clone());
        let status = text(&events(&root, &["status"]));
        assert!(status.starts_with("scanner  next event "), "{status}");
        assert!(status.contains(", 0 to send, 0 dead letters, 0 lost"), "{status}");
        let count = receiver.ids().len();
        let replayed = text(&events(&root, &["replay", "--since", "1h", "--sink", "scanner"]));
        assert!(replayed.starts_with("scanner  next event 1, "), "{replayed}");
        let until = Instant::now() + PATIENCE;
        while receiver.ids().len() < count + expected.len() {
            assert!(Instant::now() < until, "the replay does not come");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_same(firsts(&receiver), expected);
        let unknown = events(&root, &["replay", "--since", "1h", "--sink", "other"]);
        let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
        assert!(error.contains("there is no sink other: there are scanner"), "{error}");
        let wrong = events(&root, &["replay", "--since", "yesterday"]);
        assert_eq!(wrong.status.code(), Some(2));
        process.terminate();
    });
}
