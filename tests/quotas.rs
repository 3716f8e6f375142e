//! Quotas over HTTP, with the real binary: what a client like docker is told, and when.

use jreg_testkit::{Client, Image, Process, Request, Response, sha256};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

const LIMIT: usize = 10_000;

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn upload_path(client: &Client, repository: &str) -> String {
    let started =
        client.send(Request::new("POST", format!("/v2/{repository}/blobs/uploads/"))).await;
    assert_eq!(started.status, 202, "{started}");
    let location = started.header("location").unwrap();
    format!("/v2/{}", location.split_once("/v2/").unwrap().1)
}

/// Pushes a blob as docker does: POST, a PATCH of unknown length, PUT.
async fn push_blob(client: &Client, repository: &str, bytes: &[u8]) -> Response {
    let path = upload_path(client, repository).await;
    let chunks: Vec<_> = bytes.chunks(1000).map(<[u8]>::to_vec).collect();
    let patched = client.send(Request::new("PATCH", path.clone()).chunked(chunks)).await;
    if patched.status != 202 {
        return patched;
    }
    let digest = sha256(bytes);
    client.send(Request::new("PUT", format!("{path}?digest={digest}"))).await
}

async fn put_manifest(client: &Client, repository: &str, image: &Image) -> Response {
    let put = Request::new("PUT", format!("/v2/{repository}/manifests/v1"));
    let put = put.header("Content-Type", &image.manifest.media_type);
    client.send(put.body(image.manifest.bytes.clone())).await
}

async fn push(client: &Client, repository: &str, image: &Image) -> Response {
    for blob in &image.blobs {
        let pushed = push_blob(client, repository, &blob.bytes).await;
        if pushed.status != 201 {
            return pushed;
        }
    }
    put_manifest(client, repository, image).await
}

#[track_caller]
fn is_refused(response: &Response) {
    assert_eq!(
        (response.status, response.error_code().as_deref()),
        (403, Some("DENIED")),
        "{response}"
    );
    let error = &response.json()["errors"][0];
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("quota 1 (team/**): "), "{message}");
    assert_eq!((&error["detail"]["limit"], &error["detail"]["pool"]), (&LIMIT.into(), &1.into()));
    assert!(error["detail"]["used"].as_u64().unwrap() <= LIMIT as u64, "{error}");
}

#[test]
fn pushes_beyond_a_quota_are_refused_with_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("lifecycle.toml");
    let text = format!("[[quota]]\nrepositories = ['team/**']\nbytes = {LIMIT}\n[end]\n");
    std::fs::write(&rules, text).unwrap();
    let flags = ["--lifecycle", rules.to_str().unwrap()];
    let process = Process::start_with(BINARY, &folder.path().join("data"), &flags);
    block_on(async {
        let client = process.client();
        let image = Image::plain(1);
        for repository in ["team/a", "team/b", "team/c", "team/d", "team/e", "team/f"] {
            assert_eq!(push(&client, repository, &image).await.status, 201, "layers are shared");
        }
        // In a body of unknown length, which is read to its end, and of a known one.
        is_refused(&push_blob(&client, "team/a", &[7; 100_000]).await);
        let path = upload_path(&client, "team/a").await;
        is_refused(&client.send(Request::new("PATCH", path).body(vec![7; 20_000])).await);
        let whole = format!("/v2/team/a/blobs/uploads/?digest={}", sha256([7; 20_000]));
        is_refused(&client.send(Request::new("POST", whole).body(vec![7; 20_000])).await);
        for seed in 2..10 {
            let pushed = push(&client, "team/a", &Image::plain(seed)).await;
            if pushed.status == 403 {
                is_refused(&pushed);
                assert!(seed > 3, "the limit is not that small");
                break;
            }
            assert!(seed < 9, "the limit is reached");
        }
        assert_eq!(push(&client, "other", &Image::plain(20)).await.status, 201);
    });
    process.terminate();
}
