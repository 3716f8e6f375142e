//! Bodies that the connection sends from files: the bytes are correct, and a changed file
//! interrupts the response.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jreg_config::Settings;
use jreg_oci::{Algorithm, Digest};
use jreg_storage::{FsOptions, FsStore};
use jreg_testkit::{Client, Request, Rng, ServerSpec, StoreKind, TestServer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than a placeholder, and than the socket buffers.
const LARGE_BYTES: usize = 3 * 1024 * 1024 + 17;
/// Maximum length of a body that is read rather than sent.
const SMALL_BYTES: usize = 64 * 1024;

struct FolderScenario {
    server: TestServer,
    folder: TempDir,
    client: Client,
}

impl FolderScenario {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FsStore::open(folder.path(), FsOptions::default()).unwrap();
        let spec = ServerSpec::with(change).store(StoreKind::Given(Arc::new(store)));
        let server = TestServer::start(spec).await;
        let client = server.client();
        Self { server, folder, client }
    }

    async fn push(&self, bytes: &Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        let target = format!("/v2/app/blobs/uploads/?digest={digest}");
        let response = self.client.send(Request::new("POST", target).body(bytes.clone())).await;
        assert_eq!(response.status, 201, "{response}");
        digest
    }

    /// The responses to pipelined requests, until the server closes.
    async fn pipelined(&self, requests: &[String]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.client.address()).await.unwrap();
        stream.write_all(requests.concat().as_bytes()).await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        received
    }
}

fn random(seed: u64, length: usize) -> Bytes {
    Rng::new(seed).bytes(length)
}

fn get(digest: &Digest, more: &str) -> String {
    format!("GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: a\r\n{more}\r\n")
}

/// Splits received bytes into bodies by Content-Length.
fn bodies(mut received: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while !received.is_empty() {
        let end = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let (head, rest) = received.split_at(end);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let (body, rest) = rest.split_at(length.parse().unwrap());
        bodies.push(body.to_vec());
        received = rest;
    }
    bodies
}

#[tokio::test]
async fn blobs_of_every_length_come_whole() {
    let scenario = FolderScenario::start().await;
    let part = 1024 * 1024;
    for length in [0, 1, SMALL_BYTES, SMALL_BYTES + 1, part - 1, part, part + 1, LARGE_BYTES] {
        let bytes = random(length as u64, length);
        let digest = scenario.push(&bytes).await;
        for _ in 0..2 {
            let response =
                scenario.client.send(Request::new("GET", format!("/v2/app/blobs/{digest}"))).await;
            assert_eq!(response.status, 200);
            assert_eq!(response.body, bytes, "{length}");
        }
    }
    scenario.server.stop().await;
}

#[tokio::test]
async fn responses_on_one_connection_are_not_mixed_up() {
    let scenario = FolderScenario::start().await;
    let (first, second) = (random(1, LARGE_BYTES), random(2, 2 * SMALL_BYTES));
    let small = random(3, 100);
    let [a, b, c] =
        [scenario.push(&first).await, scenario.push(&second).await, scenario.push(&small).await];
    let end = "Connection: close\r\n";
    let received = scenario
        .pipelined(&[
            get(&a, ""),
            get(&c, ""),
            get(&b, "Range: bytes=70000-\r\n"),
            get(&b, ""),
            get(&a, &format!("Range: bytes=1000000-2100000\r\n{end}")),
        ])
        .await;
    let expected: Vec<&[u8]> =
        vec![&first, &small, &second[70_000..], &second, &first[1_000_000..=2_100_000]];
    assert!(bodies(&received) == expected);
    scenario.server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_every_byte() {
    let scenario = FolderScenario::start().await;
    let bytes = random(4, 4 * LARGE_BYTES);
    let digest = scenario.push(&bytes).await;
    let mut stream = TcpStream::connect(scenario.client.address()).await.unwrap();
    stream.write_all(get(&digest, "Connection: close\r\n").as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let mut piece = vec![0; 10_000];
    loop {
        let read = stream.read(&mut piece).await.unwrap();
        if read == 0 {
            break;
        }
        received.extend_from_slice(&piece[..read]);
        tokio::task::yield_now().await;
    }
    assert!(bodies(&received) == [&bytes[..]]);
    scenario.server.stop().await;
}

/// Bytes are counted when they are sent; a client that stops reading still has them in flight.
#[tokio::test]
async fn bytes_in_flight_are_counted_though_they_never_pass_through() {
    let scenario = FolderScenario::with(|settings| settings.rate_limit_bytes_in_flight = 1).await;
    let bytes = random(5, 8 * LARGE_BYTES);
    let digest = scenario.push(&bytes).await;
    let small = scenario.push(&random(6, 10)).await;
    let mut stream = TcpStream::connect(scenario.client.address()).await.unwrap();
    stream.write_all(get(&digest, "Connection: close\r\n").as_bytes()).await.unwrap();
    let mut received = vec![0];
    stream.read_exact(&mut received).await.unwrap();
    let target = format!("/v2/app/blobs/{small}");
    let refused = scenario.client.send_unchecked(&Request::new("GET", &*target)).await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")), "{refused}");
    stream.read_to_end(&mut received).await.unwrap();
    assert!(bodies(&received) == [&bytes[..]]);
    assert_eq!(scenario.client.send(Request::new("GET", &*target)).await.status, 200);
    scenario.server.stop().await;
}

/// The file of the only blob.
fn blob_file(root: &Path) -> PathBuf {
    let mut path = root.join("blobs");
    while path.is_dir() {
        path = fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    }
    path
}

#[tokio::test]
async fn a_file_that_becomes_shorter_breaks_the_response_off() {
    let scenario = FolderScenario::start().await;
    let bytes = random(5, 8 * LARGE_BYTES);
    let digest = scenario.push(&bytes).await;
    let path = blob_file(scenario.folder.path());
    let mut stream = TcpStream::connect(scenario.client.address()).await.unwrap();
    stream.write_all(get(&digest, "").as_bytes()).await.unwrap();
    let mut received = vec![0];
    stream.read_exact(&mut received).await.unwrap();
    // More than the sockets have taken so far.
    let left = 6 * LARGE_BYTES;
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(left as u64).unwrap();
    stream.read_to_end(&mut received).await.unwrap();
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = &received[end..];
    assert!(!body.is_empty() && body.len() <= left && body == &bytes[..body.len()]);
    // A file that has changed is opened again, and its length compared before anything is sent.
    let refused = scenario.pipelined(&[get(&digest, "Connection: close\r\n")]).await;
    assert!(refused.starts_with(b"HTTP/1.1 500 "), "{}", String::from_utf8_lossy(&refused));
    scenario.server.stop().await;
}

#[tokio::test]
async fn a_blob_that_was_deleted_and_pushed_again_is_read_anew() {
    let scenario = FolderScenario::start().await;
    let bytes = random(6, SMALL_BYTES + 1);
    let digest = scenario.push(&bytes).await;
    let blob = || Request::new("GET", format!("/v2/app/blobs/{digest}"));
    assert_eq!(scenario.client.send(blob()).await.body, bytes);
    let delete = Request::new("DELETE", format!("/v2/app/blobs/{digest}"));
    assert_eq!(scenario.client.send(delete).await.status, 202);
    assert_eq!(scenario.client.send(blob()).await.status, 404);
    scenario.push(&bytes).await;
    assert_eq!(scenario.client.send(blob()).await.body, bytes);
    scenario.server.stop().await;
}
