//! The real binary: shutdown, memory, and file descriptor exhaustion.

use std::io;

use bytes::Bytes;
use jreg_testkit::{Client, Process, Request, Rng, Wire};
use sha2::{Digest, Sha256};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const MIB: usize = 1024 * 1024;
/// A blob several times larger than the memory that a server may need for one.
const LARGE_MIB: usize = 256;

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// The blob's pieces of one MiB, each different from the others.
fn pieces() -> impl Iterator<Item = Bytes> {
    let base = Rng::new(3).bytes(MIB);
    (0..LARGE_MIB).map(move |number| {
        let mut piece = base.to_vec();
        piece[..8].copy_from_slice(&(number as u64).to_le_bytes());
        piece.into()
    })
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn large_digest() -> String {
    let mut hash = Sha256::new();
    pieces().for_each(|piece| hash.update(&piece));
    format!("sha256:{}", hex(&hash.finalize()))
}

/// Sends the large blob as a request body, in pieces.
async fn send_large(client: &Client, request: Request) -> io::Result<u16> {
    let mut wire = client.wire().await;
    let request = request.header("Content-Length", (LARGE_MIB * MIB).to_string());
    wire.write(&request.head("localhost")).await?;
    for piece in pieces() {
        wire.write(&piece).await?;
    }
    Ok(wire.response(&request.method).await?.status)
}

/// Reads the large blob in pieces, and returns its digest.
async fn read_large(wire: &mut Wire) -> String {
    let mut hash = Sha256::new();
    for _ in 0..LARGE_MIB {
        hash.update(wire.bytes(MIB).await.unwrap());
    }
    format!("sha256:{}", hex(&hash.finalize()))
}

#[test]
fn memory_does_not_grow_with_the_blob() {
    block_on(async {
        const PEAK_BYTES_MAX: u64 = 160 * 1024 * 1024;
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(BINARY, &folder.path().join("data"));
        let client = process.client();
        let digest = large_digest();

        let known = Request::new("POST", format!("/v2/known/blobs/uploads/?digest={digest}"));
        assert_eq!(send_large(&client, known).await.unwrap(), 201);

        let begun = client.send(Request::new("POST", "/v2/unknown/blobs/uploads/").body("")).await;
        let upload = begun.header("Location").unwrap();
        assert_eq!(send_large(&client, Request::new("PATCH", upload)).await.unwrap(), 202);
        let close = Request::new("PUT", format!("{upload}?digest={digest}")).body("");
        assert_eq!(client.send(close).await.status, 201);

        let pull = Request::new("GET", format!("/v2/unknown/blobs/{digest}")).head("localhost");
        let (mut slow, mut fast) = (client.wire().await, client.wire().await);
        slow.write(&pull).await.unwrap();
        slow.bytes(MIB).await.unwrap();
        fast.write(&pull).await.unwrap();
        assert_eq!(fast.response_head().await.unwrap().status, 200);
        assert_eq!(read_large(&mut fast).await, digest);

        let peak = process.peak_memory_bytes();
        assert!(peak < PEAK_BYTES_MAX, "{} MiB for a blob of {LARGE_MIB} MiB", peak / MIB as u64);
    });
}

#[test]
fn terminated_process_exits_with_success() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    assert_eq!(block_on(process.client().get("/v2/")).status, 200);
    assert!(process.terminate().success());
}

#[test]
fn fixed_too_many_open_files_do_not_kill_the_listener() {
    const FILES_MAX: u32 = 64;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start_with_few_files(BINARY, folder.path(), FILES_MAX);
    let client = process.client();
    block_on(async {
        let mut held = Vec::new();
        for _ in 0..FILES_MAX * 2 {
            held.push(client.wire().await);
        }
        drop(held);
        let mut status = None;
        for _ in 0..100 {
            status = client
                .try_send(Request::new("GET", "/v2/"))
                .await
                .ok()
                .map(|response| response.status);
            if status == Some(200) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(status, Some(200), "the server does not serve any more");
    });
    assert!(process.terminate().success());
}

#[test]
fn a_rotated_audit_log_is_opened_again_at_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
    let audit_log = path.display().to_string();
    let process =
        Process::start_with_environment(BINARY, "memory:", &[("JREG_AUDIT_LOG", &audit_log)]);
    let client = process.client();
    let lines = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<serde_json::Value>>()
    };
    block_on(async {
        let start = || Request::new("POST", "/v2/a/blobs/uploads/").body("");
        assert_eq!(client.send(start()).await.status, 202);
        assert_eq!(lines(&path).len(), 1, "before the response");
        std::fs::rename(&path, &old).unwrap();
        process.hang_up();
        for _ in 0..500 {
            if path.exists() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(lines(&path).len(), 0, "nothing was asked since, and still it is there");
        assert_eq!(client.send(start()).await.status, 202);
    });
    assert!(process.terminate().success());
    assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));
    assert_eq!(lines(&path)[0]["operation"], "upload_start");
    assert_eq!(lines(&path)[0]["rule"], "everything is open");
}

/// A full or closed standard output does not cause a panic.
#[test]
fn fixed_output_that_cannot_be_written_is_an_error_or_ignored() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let version = std::process::Command::new(BINARY).arg("version").stdout(full()).output();
    let version = version.unwrap();
    let message = String::from_utf8(version.stderr).unwrap();
    assert_eq!(version.status.code(), Some(1), "{message}");
    assert!(message.starts_with("jreg: ") && !message.contains("panicked"), "{message}");

    let mut serve = std::process::Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--storage", "memory:"])
        .stdout(full())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut io::BufReader::new(serve.stderr.take().unwrap()), &mut line)
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    serve.kill().unwrap();
    serve.wait().unwrap();
    assert_eq!(line["message"], "listening", "{line}");
    assert_eq!((&line["storage"], &line["durability"]), (&"memory:".into(), &"strict".into()));
    assert!(line["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
}
