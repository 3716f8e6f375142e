//! Mirrors of other registries, in front of a scripted one that fails and counts.

mod blobs;
mod cluster;
mod decisions;
mod names;
mod page;
mod recipes;
mod rights;
mod scenarios;
mod slow;
mod sync;
mod traces;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jreg_config::{Settings, read_file};
use jreg_storage::testing::ManualClock;
use jreg_testkit::upstream::ScriptedUpstream;
use jreg_testkit::{Client, Image, Request, Response, ServerSpec, StoreKind, TestServer};

/// Settings with a mirror of `docker.io` at this address, and further keys of its table.
pub(crate) fn settings(upstream: &ScriptedUpstream, table: &str, others: &str) -> Settings {
    let text = format!(
        "{others}\n[[mirror]]\nnamespace = \"docker.io\"\nupstream = \"{}\"\n{table}\n",
        upstream.url()
    );
    Settings::resolve(read_file(Path::new("mirror.toml"), &text).unwrap()).unwrap()
}

/// A server with such a mirror.
pub(crate) async fn mirror(
    upstream: &ScriptedUpstream,
    store: StoreKind,
    table: &str,
) -> TestServer {
    let spec = ServerSpec { settings: settings(upstream, table, ""), ..ServerSpec::default() };
    TestServer::start(spec.store(store)).await
}

/// One that keeps its content in memory and runs by a clock that the test turns.
pub(crate) async fn mirror_by(
    clock: &Arc<ManualClock>,
    upstream: &ScriptedUpstream,
    table: &str,
) -> TestServer {
    let spec = ServerSpec { settings: settings(upstream, table, ""), ..ServerSpec::default() };
    TestServer::start(spec.clock(Arc::clone(clock) as _)).await
}

/// Each kind of store.
pub(crate) fn stores() -> [StoreKind; 3] {
    [StoreKind::Memory, StoreKind::Folder, StoreKind::Bucket]
}

/// A request whose response is checked by the test alone.
pub(crate) async fn plain(client: &Client, method: &str, target: &str) -> Response {
    let request = Request::new(method, target).header("Connection", "close");
    client.send_unchecked(&request).await.unwrap()
}

pub(crate) async fn get(client: &Client, target: &str) -> Response {
    plain(client, "GET", target).await
}

/// An image in the registry at `library/app:v1`.
pub(crate) fn add_image(upstream: &ScriptedUpstream, seed: u64) -> Image {
    let image = Image::plain(seed);
    upstream.add_image("library/app", Some("v1"), &image);
    image
}

/// Pulls an image from a path (`/v2/docker.io/library/app`) as a client does, and compares every byte.
pub(crate) async fn pull(client: &Client, path: &str, query: &str, tag: &str, image: &Image) {
    let manifest = get(client, &format!("{path}/manifests/{tag}{query}")).await;
    assert_eq!(manifest.status, 200, "{manifest}");
    assert_eq!(manifest.body, image.manifest.bytes);
    assert_eq!(manifest.header("Docker-Content-Digest"), Some(image.manifest.digest().as_str()));
    for blob in &image.blobs {
        let got = get(client, &format!("{path}/blobs/{}{query}", blob.digest())).await;
        assert_eq!(got.status, 200, "{got}");
        assert_eq!(got.body, blob.bytes);
    }
}

/// Reads a response that may end before its length, and gives its status and the bytes that came.
pub(crate) async fn partial(client: &Client, target: &str) -> (u16, usize, Bytes) {
    let mut wire = client.wire().await;
    let request = Request::new("GET", target).header("Connection", "close");
    wire.write(&request.head("localhost")).await.unwrap();
    // A fetch that fails before the head is sent closes the connection.
    let Ok(head) = wire.response_head().await else { return (0, 0, Bytes::new()) };
    let length = head.header("Content-Length").map_or(0, |length| length.parse().unwrap());
    (head.status, length, wire.closed().await.unwrap())
}
