//! What operators use, with the real binary: health, configuration check, listings, support bundles, completions
//! and man pages, the admin listener, the log level at runtime, and a stop that load balancers notice.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jreg_testkit::s3::{RecordedRequest, S3Operation, S3Server, S3Spec};
use jreg_testkit::{Client, Image, Process, Request, Rng, Scenario, push_image, sha256};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// Runs a command in an environment of this only.
fn jreg(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).env_clear().envs(environment.iter().copied()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn serve(folder: &Path, flags: &[&str]) -> Process {
    Process::start_with(BINARY, folder, flags)
}

#[test]
fn health_asks_where_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let environment = [("JREG_LISTEN", address.as_str())];
    let down = jreg(&["health", "--json"], &environment);
    assert_eq!(down.status.code(), Some(1));
    let down: Value = serde_json::from_str(&out(&down)).unwrap();
    assert_eq!((&down["ok"], &down["status"]), (&false.into(), &Value::Null));
    let process = serve(folder.path(), &[]);
    let address = process.client().address().to_string();
    let environment = [("JREG_LISTEN", address.as_str())];
    for args in [&["health"][..], &["health", "--ready"]] {
        let healthy = jreg(args, &environment);
        assert!(healthy.status.success(), "{}", out(&healthy));
        assert!(out(&healthy).ends_with("z: 200\n"), "{}", out(&healthy));
    }
    let by_name = jreg(&["health", "--address", &address.replace("127.0.0.1", "localhost")], &[]);
    assert!(by_name.status.success(), "{}", err(&by_name));
    process.terminate();
}

#[test]
fn the_configuration_check_tells_all_errors_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let policy = file("policy.toml", "[[rule]]\nname = 1");
    let text = format!(
        "listn = 'x'\nuploads-max = 0\npolicy = '{policy}'\nhtpasswd = '/nowhere/users'\n\
         s3-secret-access-key = 'HUSH'"
    );
    let config = file("jreg.toml", &text);
    let wrong = jreg(&["config", "check", "--config", &config, "--json"], &[("JREG_LOG", "loud")]);
    assert_eq!(wrong.status.code(), Some(1), "{}", err(&wrong));
    assert!(!out(&wrong).contains("HUSH"));
    let wrong: Value = serde_json::from_str(&out(&wrong)).unwrap();
    let errors: Vec<_> = wrong["errors"].as_array().unwrap().iter().collect();
    assert_eq!(errors.len(), 5, "{errors:#?}");
    for part in ["`listen`", "uploads-max", "JREG_LOG", "/nowhere/users", "policy.toml"] {
        assert!(errors.iter().any(|e| e.as_str().unwrap().contains(part)), "{part}: {errors:?}");
    }
    let secret = &wrong["settings"]["s3-secret-access-key"];
    assert_eq!(secret["values"], serde_json::json!(["[redacted]"]));
    assert_eq!(secret["source"], config.as_str());

    let config = file("right.toml", "listen = ':5000'\nauthentication = true");
    let right = jreg(&["config", "check"], &[("JREG_CONFIG", &config), ("JREG_LOG", "debug")]);
    let text = out(&right);
    assert!(right.status.success(), "{text}");
    assert!(text.contains(&format!("listen = 0.0.0.0:5000  ({config})\n")), "{text}");
    assert!(text.contains("log = debug  (JREG_LOG)\n"), "{text}");
    assert!(text.ends_with("the configuration is valid\n"), "{text}");
    let open = jreg(&["config", "check"], &[("JREG_LISTEN", ":5000")]);
    assert!(out(&open).contains("error: 0.0.0.0:5000 is reachable"), "{}", out(&open));
}

async fn fill(client: &Client) {
    let mut scenario = Scenario::new("app", client.clone());
    scenario.run(push_image("v1", &Image::plain(1))).await;
}

#[test]
fn content_is_listed_beside_the_server_and_alone() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().display().to_string();
    let environment = [("JREG_STORAGE", storage.as_str())];
    let process = serve(folder.path(), &[]);
    block_on(fill(&process.client()));
    let listed = || {
        let names = out(&jreg(&["ls"], &environment));
        let tags = out(&jreg(&["ls", "contract/app", "--json"], &environment));
        (names, tags.lines().next().unwrap().to_owned())
    };
    let (names, tags) = listed();
    assert_eq!(names, "contract/app\n");
    let tag: Value = serde_json::from_str(&tags).unwrap();
    assert_eq!((&tag["event"], &tag["name"]), (&"listed".into(), &"v1".into()));
    assert!(tag["manifest"]["digest"].as_str().unwrap().starts_with("sha256:"), "{tag}");
    process.terminate();
    assert_eq!(listed(), (names, tags));
    assert_eq!(jreg(&["ls", "absent"], &environment).status.code(), Some(1));
}

#[test]
fn operators_have_a_listener_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let admin = free_address();
    let secret = ["--admin-listen", &admin, "--s3-secret-access-key", "HUSH"];
    let process = serve(folder.path(), &secret);
    let (public, operators) = (process.client(), Client::new(admin.parse().unwrap()));
    let storage = folder.path().display().to_string();
    block_on(async {
        assert_eq!(public.get("/metrics").await.status, 404);
        assert_eq!(public.get("/support").await.status, 404);
        assert_eq!(public.get("/readyz").await.status, 200);
        for path in ["/livez", "/readyz", "/readyz?write", "/metrics", "/support"] {
            let response = operators.get(path).await;
            assert_eq!(response.status, 200, "{path}");
            // What changes has another length each time.
            if !matches!(path, "/metrics" | "/support") {
                assert_eq!(operators.head(path).await.status, 200, "{path}");
            }
        }
        for path in ["/", "/v2/", "/v2/_catalog", "/token", "/openapi.yaml"] {
            assert_eq!(operators.get(path).await.status, 404, "{path}");
        }
        let put = Request::new("PUT", "/support").body("");
        assert_eq!(operators.send(put).await.status, 405);
        let metrics = operators.get("/metrics").await;
        let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
        assert!(metrics.contains("\njreg_store_disk_free_bytes "), "{metrics}");
        assert!(metrics.contains("\nprocess_resident_memory_bytes "), "{metrics}");
    });
    let environment = [("JREG_STORAGE", storage.as_str()), ("JREG_ADMIN_LISTEN", admin.as_str())];
    for environment in [&environment[..], &environment[..1]] {
        let bundle = jreg(&["support"], environment);
        assert!(bundle.status.success(), "{}", err(&bundle));
        assert!(!out(&bundle).contains("HUSH"));
        let bundle: Value = serde_json::from_str(&out(&bundle)).unwrap();
        assert_eq!(bundle["store"]["probe"], "ok");
        assert_eq!(bundle["settings"]["s3-secret-access-key"], "[redacted]");
        assert_eq!(
            bundle["settings"]["admin-listen"],
            admin.as_str(),
            "not of the serving process"
        );
    }
    process.terminate();
}

#[test]
fn the_log_level_changes_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jreg.toml");
    let log = folder.path().join("log");
    let write = |level: &str| {
        let text = format!("listen = '127.0.0.1:0'\nstorage = 'memory:'\nlog = '{level}'\n");
        std::fs::write(&config, text).unwrap();
    };
    write("info");
    let mut server = Command::new(BINARY)
        .args(["serve", "--log-format", "json", "--config"])
        .arg(&config)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let wait_for = |text: &str| {
        for _ in 0..500 {
            if std::fs::read_to_string(&log).unwrap().contains(text) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "there is no runtime")]
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no {text} in {}", std::fs::read_to_string(&log).unwrap());
    };
    let signal = |name: &str| {
        assert!(
            Command::new("kill").args([name, &server.id().to_string()]).status().unwrap().success()
        );
    };
    wait_for(r#""message":"listening""#);
    signal("-USR1");
    wait_for(r#""message":"log level changed","log":"debug""#);
    write("info,jreg::app=debug");
    signal("-HUP");
    wait_for(r#""message":"log level reloaded","log":"info,jreg::app=debug""#);
    write("loud");
    signal("-HUP");
    wait_for("cannot use the changed configuration; keeping the log level");
    signal("-TERM");
    assert!(server.wait().unwrap().success());
}

/// Load balancers see that it is not ready while it still serves; then the port closes.
#[test]
fn a_stop_is_announced_before_the_port_closes() {
    const DELAY: Duration = Duration::from_secs(2);
    let folder = tempfile::tempdir().unwrap();
    let process = serve(folder.path(), &["--shutdown-delay", "2s"]);
    let client = process.client();
    block_on(async {
        let ready = || async { client.try_send(Request::new("GET", "/readyz")).await };
        assert_eq!(ready().await.unwrap().status, 200);
        let began = Instant::now();
        let stopping = tokio::task::spawn_blocking(move || process.terminate());
        while ready().await.unwrap().status != 503 {
            assert!(began.elapsed() < DELAY, "it was not announced");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let during = client.send(Request::new("GET", "/v2/")).await;
        assert_eq!((during.status, during.header("connection")), (200, Some("close")));
        assert_eq!(client.get("/livez").await.status, 200);
        assert!(stopping.await.unwrap().success());
        assert!(began.elapsed() >= DELAY, "{:?}", began.elapsed());
        assert!(ready().await.is_err());
    });
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, part) in
        [("bash", "complete -F"), ("zsh", "#compdef jreg"), ("fish", "complete -c")]
    {
        let text = out(&jreg(&["completions", shell], &[]));
        assert!(text.contains(part) && text.contains("fsck"), "{shell}");
    }
    let made = jreg(&["man", folder.path().to_str().unwrap()], &[]);
    assert!(made.status.success(), "{}", err(&made));
    for page in ["jreg", "jreg-serve", "jreg-gc", "jreg-user-add", "jreg-config-check"] {
        let text = std::fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(!folder.path().join("jreg-man.1").exists());
}

#[test]
fn a_user_is_added_with_words_and_never_replaced_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users").display().to_string();
    let add =
        |more: &[&str]| jreg(&[&["user", "add", "alice", "--file", &file], more].concat(), &[]);
    let first = add(&[]);
    assert_eq!(out(&first).trim().len(), 32, "standard output is the password alone");
    assert!(err(&first).contains("the password, which cannot be shown again"), "{}", err(&first));
    let again = add(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("--force"), "{}", err(&again));
    let forced: Value = serde_json::from_str(&out(&add(&["--force", "--json"]))).unwrap();
    assert_eq!(forced["user"], "alice");
    assert_ne!(forced["password"].as_str().unwrap(), out(&first).trim());
}

/// `jreg` as the user of the image, which only root can become. `None`: this process cannot.
fn jreg_as_another_user(folder: &Path) -> Option<impl Fn(&[&str], &Path) -> Command + use<>> {
    let user = Command::new("id").arg("-u").output().unwrap();
    if out(&user).trim() != "0" || Command::new("setpriv").arg("--version").output().is_err() {
        return None;
    }
    let copy = folder.join("jreg");
    std::fs::copy(BINARY, &copy).unwrap();
    let open = Command::new("chmod").args(["755"]).arg(folder).arg(&copy).status().unwrap();
    assert!(open.success());
    Some(move |words: &[&str], data: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65532", "--regid=65532", "--clear-groups"]).arg(&copy);
        command.args(words).arg("--storage").arg(data).env_clear();
        command
    })
}

#[test]
fn a_folder_of_another_user_is_an_error_that_says_chown() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let Some(jreg) = jreg_as_another_user(folder.path()) else { return };
    let refused = jreg(&["serve", "--listen", "127.0.0.1:0"], &data).output().unwrap();
    let told = err(&refused);
    assert!(told.contains(&format!("chown -R 65532 {}", data.display())), "{told}");
}

/// A server that belongs to a user starts after root ran commands on its folder.
#[test]
fn commands_of_root_leave_files_of_the_owner_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    let Some(jreg_as_owner) = jreg_as_another_user(folder.path()) else { return };
    std::os::unix::fs::chown(&data, Some(65532), Some(65532)).unwrap();
    let storage = data.display().to_string();
    let variables = [("JREG_STORAGE", storage.as_str())];
    let process = serve(&data, &[]);
    let filled = process.client();
    block_on(async { fill(&filled).await });
    assert!(process.terminate().success());
    for words in [
        &["gc", "--sweep"][..],
        &["fsck", "--repair"],
        &["token", "create", "--name", "ci", "--allow", "pull:**"],
    ] {
        let done = jreg(words, &variables);
        assert!(done.status.success(), "{words:?}: {}", err(&done));
    }
    let of_root = Command::new("find").arg(&data).args(["-user", "0"]).output().unwrap();
    assert_eq!(out(&of_root), "");
    let done = jreg_as_owner(&["gc", "--sweep"], &data).output().unwrap();
    assert!(done.status.success(), "{}", err(&done));
}

/// Regression: SIGXFSZ ended the server at the first blob beyond RLIMIT_FSIZE.
#[test]
fn fixed_a_blob_beyond_the_limit_of_file_sizes_fails_alone() {
    const BLOCKS_MAX: u32 = 80 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start_with_small_files(BINARY, folder.path(), BLOCKS_MAX);
    let client = process.client();
    let large = vec![0; 1024 * BLOCKS_MAX as usize + 1];
    block_on(async {
        let target = format!("/v2/app/blobs/uploads/?digest={}", sha256(&large));
        let refused = client.send(Request::new("POST", &target).body(large)).await;
        assert!(refused.status >= 500, "{}", refused.status);
        fill(&client).await;
    });
    assert!(process.terminate().success());
}

/// The longest store requests of a slow request are in its line, and its trace reaches the collector.
#[test]
fn a_traced_request_reaches_the_collector_and_a_slow_one_the_log() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--trace-collector", &url, "--slow-request", "1ms"];
    let process = serve(folder.path(), &flags);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    block_on(async {
        let client = process.client();
        fill(&client).await;
        let traced = Request::new("GET", "/v2/contract/app/manifests/v1")
            .header("traceparent", format!("00-{trace}-00f067aa0bc902b7-01"));
        assert_eq!(client.send(traced).await.status, 200);
    });
    let storage = folder.path().display().to_string();
    let bundle = out(&jreg(&["support"], &[("JREG_STORAGE", &storage)]));
    let bundle: Value = serde_json::from_str(&bundle).unwrap();
    let lines = bundle["warnings_and_errors"].as_array().unwrap();
    let slow = lines.iter().find(|line| line["message"] == "slow request");
    let slow = slow.unwrap_or_else(|| panic!("no slow request: {lines:?}"));
    assert!(slow["totals"].as_str().unwrap().contains(" times "), "{slow}");

    let received = std::thread::spawn(move || {
        let (mut stream, _) = collector.accept().unwrap();
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while let Ok(read) = std::io::Read::read(&mut stream, &mut chunk) {
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..read]);
        }
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        std::io::Write::write_all(&mut stream, response).unwrap();
        bytes
    });
    // Also what is on its way when it stops.
    process.terminate();
    let received = received.join().unwrap();
    let text = String::from_utf8_lossy(&received);
    assert!(text.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("application/x-protobuf") && text.contains("GET manifest_get"), "{text}");
    let id: Vec<u8> = (0..16)
        .map(|n| u8::from_str_radix(trace.get(2 * n..2 * n + 2).unwrap(), 16).unwrap())
        .collect();
    assert!(received.windows(16).any(|part| part == id), "{text}");
    assert!(!text.contains("PUT manifest_put"), "it was not sampled: {text}");
}

/// Accepts requests until there are no more senders, and keeps their bytes.
fn collect_traces(collector: &TcpListener, ended: &AtomicBool) -> Vec<u8> {
    collector.set_nonblocking(true).unwrap();
    let mut received = Vec::new();
    loop {
        let is_last = ended.load(Ordering::Acquire);
        let Ok((mut stream, _)) = collector.accept() else {
            if is_last {
                return received;
            }
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut chunk = [0; 65536];
        while let Ok(read @ 1..) = std::io::Read::read(&mut stream, &mut chunk) {
            received.extend_from_slice(&chunk[..read]);
        }
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        // The process may have ended meanwhile.
        let _ = std::io::Write::write_all(&mut stream, response);
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The client's trace goes on in each request to the bucket, those of parts, which tasks of their own send, included,
/// and each is a span of the request that caused it.
#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_an_upload_to_a_bucket_belong_to_the_trace_of_its_client() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let bucket = S3Server::start(S3Spec::default()).await;
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let ended = Arc::new(AtomicBool::new(false));
    let received = std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || collect_traces(&collector, &ended)
    });
    let environment = [
        ("AWS_ACCESS_KEY_ID", bucket.access_key().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", bucket.secret_key().to_owned()),
        ("JREG_PART_BYTES", "5MiB".to_owned()),
        ("JREG_TRACE_COLLECTOR", url),
    ];
    let storage = bucket.storage_url();
    let process = tokio::task::spawn_blocking(move || {
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        Process::start_with_environment(BINARY, &storage, &environment)
    });
    let process = process.await.unwrap();
    bucket.take_requests();
    let bytes = Rng::new(7).bytes(17 * 1024 * 1024);
    let traced = |method, target: &str| {
        Request::new(method, target)
            .header("traceparent", format!("00-{TRACE}-00f067aa0bc902b7-01"))
    };
    let client = process.client();
    let begun = client.send(traced("POST", "/v2/a/blobs/uploads/").body("")).await;
    let upload = begun.header("Location").unwrap().to_owned();
    assert_eq!(client.send(traced("PATCH", &upload).chunked([bytes.clone()])).await.status, 202);
    let close = traced("PUT", &format!("{upload}?digest={}", sha256(&bytes))).body("");
    assert_eq!(client.send(close).await.status, 201);
    let requests = bucket.take_requests();
    let mut parts = Vec::new();
    for request in &requests {
        let header = request.header("traceparent").unwrap_or_default();
        let fields: Vec<_> = header.split('-').collect();
        if request.operation == S3Operation::UploadPart {
            assert!(matches!(fields[..], ["00", TRACE, _, "01"]), "{request:?}");
            parts.push(fields[2].to_owned());
        }
    }
    assert!(parts.len() >= 3, "{parts:?}");
    for operation in [S3Operation::CreateMultipartUpload, S3Operation::CompleteMultipartUpload] {
        let of = |it: &&RecordedRequest| it.operation == operation;
        let header = requests.iter().find(of).unwrap().header("traceparent");
        assert!(header.is_some_and(|header| header.contains(TRACE)), "{operation:?}: {header:?}");
    }
    tokio::task::spawn_blocking(|| process.terminate()).await.unwrap();
    ended.store(true, Ordering::Release);
    let received = received.join().unwrap();
    let count = |part: &[u8]| received.windows(part.len()).filter(|found| *found == part).count();
    let spans = count(b"store.put_part") + count(b"store.put_last_part");
    assert_eq!(spans, parts.len(), "{}", String::from_utf8_lossy(&received));
    for span in &parts {
        // As the id of the request's span, and as the parent of those of its calls.
        assert!(count(&from_hex(span)) > 1, "{span}");
    }
}

/// A profile of what the process works on, and its memory, only at the listener of operators.
#[test]
fn a_profile_names_the_work_of_a_serving_process() {
    let folder = tempfile::tempdir().unwrap();
    let admin = free_address();
    let process = serve(folder.path(), &["--admin-listen", &admin]);
    let (public, operators) = (process.client(), Client::new(admin.parse().unwrap()));
    block_on(async {
        for path in ["/debug/pprof/profile", "/debug/memory"] {
            assert_eq!(public.get(path).await.status, 404, "{path}");
            let put = Request::new("PUT", path).body("");
            assert_eq!(operators.send(put).await.status, 405, "{path}");
        }
        let invalid = operators.get("/debug/pprof/profile?seconds=61").await;
        assert_eq!(invalid.status, 400, "{invalid:?}");
        fill(&public).await;
        let pulling =
            async { while public.get("/v2/contract/app/manifests/v1").await.status == 200 {} };
        let profile = tokio::select! {
            profile = operators.get("/debug/pprof/profile?seconds=1&debug=1") => profile,
            () = pulling => panic!("a pull failed"),
        };
        assert_eq!(profile.status, 200);
        let text = String::from_utf8(profile.body.to_vec()).unwrap();
        for work in ["connection > request manifest_get", "> store ", "  other\n"] {
            assert!(text.contains(work), "{work}: {text}");
        }
        let profile = operators.get("/debug/pprof/profile?seconds=1").await;
        assert_eq!(profile.header("Content-Type"), Some("application/octet-stream"));
        let memory = operators.get("/debug/memory").await;
        let memory: Value = serde_json::from_slice(&memory.body).unwrap();
        assert!(memory["resident_bytes"].as_u64() > memory["anonymous_bytes"].as_u64(), "{memory}");
        assert!(memory["mappings"]["code"]["resident_bytes"].as_u64() > Some(0), "{memory}");
    });
    process.terminate();
}

/// Between the JSON lines of a log there is no banner.
#[test]
fn what_is_no_terminal_gets_no_banner() {
    let mut server = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--storage", "memory:"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut log = std::io::BufReader::new(server.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    serde_json::from_str::<Value>(&line).unwrap();
    let id = server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let mut output = String::new();
    std::io::Read::read_to_string(&mut server.stdout.take().unwrap(), &mut output).unwrap();
    server.wait().unwrap();
    assert_eq!(output, "");
}
