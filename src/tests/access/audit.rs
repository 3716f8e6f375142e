//! Audit records of requests.

use std::path::PathBuf;

use http::Request;
use jreg_config::AuditTarget;
use jreg_net::server::{Body, Peer};
use serde_json::Value;

use super::guarded::{Registry, basic, bearer, hash_of, send};

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const RULES: &str = "[[rule]]\nname = 'alice works'\nsubjects = ['user:alice']\n\
    repositories = ['open/**']\nactions = ['pull', 'push', 'list']\n\
    [[rule]]\nname = 'access tokens may delete'\nsubjects = ['access-token:ci']\nrepositories = ['open/**']\n\
    actions = ['pull', 'push', 'delete']\n";

struct Audited {
    registry: Registry,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Audited {
    async fn new(reads: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let registry = Registry::with(Some(RULES), |settings| {
            settings.audit_log = AuditTarget::File(path.clone());
            settings.audit_reads = reads;
        });
        Self { registry: registry.await, path, _folder: folder }
    }

    /// The lines since the last call.
    fn take(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let _ = std::fs::remove_file(&self.path);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn ask(&self, method: &str, target: &str, header: Option<&str>) -> Vec<Value> {
        self.registry.send(method, target, header).await;
        self.take()
    }
}

fn alice() -> String {
    basic("alice", "secret")
}

#[track_caller]
fn assert_line(lines: &[Value], fields: &[(&str, Value)]) {
    let [line] = lines else { panic!("{lines:?}") };
    for (field, value) in fields {
        assert_eq!(line[field], *value, "{field} of {line}");
    }
    chrono::DateTime::parse_from_rfc3339(line["time"].as_str().unwrap()).unwrap();
    assert!(!line["request_id"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn each_change_is_a_line_with_who_what_and_by_which_rule() {
    let audited = Audited::new(false).await;
    let rule = "rule 1 (alice works)";
    let blob = hash_of(b"x").to_string();
    let uploads = "/v2/open/app/blobs/uploads/";
    let mount = format!("{uploads}?mount={blob}&from=open/other");
    let lines = audited.ask("POST", uploads, Some(&alice())).await;
    assert_line(
        &lines,
        &[
            ("event", "access".into()),
            ("identity", "alice".into()),
            ("source", "htpasswd".into()),
            ("claimed", "alice".into()),
            ("operation", "upload_start".into()),
            ("action", "push".into()),
            ("repository", "open/app".into()),
            ("allowed", true.into()),
            ("rule", rule.into()),
            ("status", 202.into()),
        ],
    );
    let id = lines[0]["upload"].as_str().unwrap();
    let finish = format!("{uploads}{id}?digest={blob}");
    let lines = audited.ask("PUT", &finish, Some(&alice())).await;
    assert_line(
        &lines,
        &[
            ("operation", "upload_put".into()),
            ("upload", id.into()),
            ("reference", blob.as_str().into()),
            ("status", 201.into()),
        ],
    );
    let lines = audited.ask("POST", &mount, Some(&alice())).await;
    let here: Value = "open/app".into();
    let mounted = [("mount_from", "open/other".into()), ("status", 201.into())];
    assert_line(&lines, &mounted);
    let any = format!("/v2/open/copy/blobs/uploads/?mount={blob}");
    let lines = audited.ask("POST", &any, Some(&alice())).await;
    assert_line(&lines, &[("mounted_from", here), ("status", 201.into())]);
    let put = format!("/v2/open/app/manifests/{}?tag=one&tag=two", hash_of(b"x"));
    let lines = audited.ask("PUT", &put, Some(&alice())).await;
    let tags = serde_json::json!(["one", "two"]);
    assert_line(&lines, &[("tags", tags), ("allowed", true.into()), ("status", 400.into())]);
    let access_token = bearer(&audited.registry.access_token);
    let lines = audited.ask("DELETE", MANIFEST, Some(&access_token)).await;
    assert_line(
        &lines,
        &[
            ("identity", "access-token:ci".into()),
            ("source", "access-token".into()),
            ("action", "delete".into()),
            ("reference", "latest".into()),
            ("allowed", true.into()),
            ("status", 202.into()),
        ],
    );
    assert_eq!(lines[0]["credential"].as_str().unwrap().len(), 16, "the token's id");
}

#[tokio::test]
async fn each_denial_is_a_line_and_an_allowed_read_only_if_it_is_asked_for() {
    for reads in [false, true] {
        let audited = Audited::new(reads).await;
        let read = audited.ask("GET", MANIFEST, Some(&alice())).await;
        assert_eq!(read.len(), usize::from(reads));
        let hidden = "/v2/closed/app/manifests/latest";
        assert_line(
            &audited.ask("GET", hidden, Some(&alice())).await,
            &[
                ("identity", "alice".into()),
                ("operation", "manifest_get".into()),
                ("repository", "closed/app".into()),
                ("allowed", false.into()),
                ("rule", "no rule allows it".into()),
                ("status", 404.into()),
            ],
        );
        assert_line(
            &audited.ask("DELETE", MANIFEST, Some(&alice())).await,
            &[("identity", "alice".into()), ("allowed", false.into()), ("status", 403.into())],
        );
        assert_line(
            &audited.ask("GET", MANIFEST, None).await,
            &[("identity", "anonymous".into()), ("status", 401.into())],
        );
        assert_line(
            &audited.ask("GET", MANIFEST, Some(&basic("alice", "wrong"))).await,
            &[
                ("identity", Value::Null),
                ("claimed", "alice".into()),
                ("rule", "unknown user or wrong password".into()),
                ("status", 401.into()),
            ],
        );
        let asked = audited.ask("GET", "/v2/", None).await;
        assert_eq!(asked.len(), usize::from(reads), "how to log in is a question");
        assert!(audited.ask("GET", "/livez", None).await.is_empty());
    }
}

#[tokio::test]
async fn each_login_is_a_line() {
    let audited = Audited::new(false).await;
    let ok = [("event", "login".into()), ("identity", "alice".into()), ("status", 200.into())];
    assert_line(&audited.ask("GET", "/v2/", Some(&alice())).await, &ok);
    let token = "/token?scope=repository:open/app:pull";
    assert_line(&audited.ask("GET", token, Some(&alice())).await, &ok);
    audited.registry.post(1, "grant_type=password&username=alice&password=secret").await;
    assert_line(&audited.take(), &ok);
    let refused = [
        ("event", "login".into()),
        ("claimed", "alice".into()),
        ("allowed", false.into()),
        ("status", 401.into()),
    ];
    for target in ["/v2/", token] {
        let lines = audited.ask("GET", target, Some(&basic("alice", "wrong"))).await;
        assert_line(&lines, &refused);
    }
    audited.registry.post(1, "grant_type=password&username=alice&password=wrong").await;
    assert_line(&audited.take(), &refused);
    let malformed = audited.ask("GET", token, Some("Basic !")).await;
    assert_line(&malformed, &[("allowed", false.into()), ("status", 401.into())]);
    assert!(audited.ask("GET", "/token?service=other", Some(&alice())).await.is_empty());
}

#[tokio::test]
async fn no_secret_is_in_a_line() {
    let audited = Audited::new(true).await;
    let registry = &audited.registry;
    let token = registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap();
    let access_token = registry.access_token.clone();
    for header in [
        alice(),
        bearer(&token),
        bearer(&access_token),
        basic(&access_token, "x"),
        basic(&token, "x"),
        basic("x", &access_token),
        basic("alice", "MARKED-PASSWORD"),
        "MARKED-PASSWORD".to_owned(),
    ] {
        for target in ["/v2/", MANIFEST, "/token?scope=repository:open/app:pull"] {
            registry.send("GET", target, Some(&header)).await;
        }
    }
    let text = std::fs::read_to_string(&audited.path).unwrap();
    assert!(text.contains("[redacted]"));
    let secret = access_token.rsplit('_').next().unwrap();
    for mark in ["MARKED-PASSWORD", secret, token.rsplit('.').next().unwrap(), &alice()] {
        assert!(!text.contains(mark), "{mark} in {text}");
    }
}

/// Fields that the request does not contain: the digest of a pushed tag, and the tags deleted with
/// a manifest.
#[tokio::test]
async fn c22_a_line_says_what_became_of_tags() {
    let audited = Audited::new(false).await;
    let index = audited.registry.send("GET", MANIFEST, Some(&alice())).await.body;
    let digest = hash_of(&index).to_string();
    for tag in ["one", "two"] {
        let request = Request::put(format!("/v2/open/app/manifests/{tag}"));
        let request = request.header("Host", "test").header("Authorization", alice());
        let pushed = send(&audited.registry.apps[0], request.body(index.clone().into()).unwrap());
        assert_eq!(pushed.await.status, 201);
        let lines = audited.take();
        let fields = [
            ("reference", tag.into()),
            ("digest", digest.as_str().into()),
            ("tag_changes_count", 1.into()),
        ];
        assert_line(&lines, &fields);
        assert_eq!(changes(&lines), [(tag, Value::Null, digest.as_str().into())]);
    }
    let access_token = bearer(&audited.registry.access_token);
    let target = format!("/v2/open/app/manifests/{digest}");
    let removed = serde_json::json!(["latest", "one", "two"]);
    assert_line(
        &audited.ask("DELETE", &target, Some(&access_token)).await,
        &[("tags_removed", removed), ("tags_removed_count", 3.into()), ("status", 202.into())],
    );
}

/// What became of tags: each with its digests before and after.
#[track_caller]
fn changes(lines: &[Value]) -> Vec<(&str, Value, Value)> {
    let [line] = lines else { panic!("{lines:?}") };
    let changes = line["tag_changes"].as_array().unwrap();
    let mut shown: Vec<_> = changes
        .iter()
        .map(|of_tag| {
            assert_eq!(of_tag["change"].as_str().unwrap().len(), 26, "{of_tag}");
            (of_tag["tag"].as_str().unwrap(), of_tag["before"].clone(), of_tag["after"].clone())
        })
        .collect();
    shown.sort_by_key(|(tag, ..)| *tag);
    shown
}

#[tokio::test]
async fn a_line_says_what_each_tag_pointed_to_before_and_after() {
    let audited = Audited::new(false).await;
    let of = |number: u8| {
        format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{number}"}}}}"#)
    };
    let put = async |path: &str, body: String| {
        let request = Request::put(format!("/v2/open/app/manifests/{path}"));
        let request = request.header("Host", "test").header("Authorization", alice());
        let request = request.header("Content-Type", "application/vnd.oci.image.index.v1+json");
        let pushed = send(&audited.registry.apps[0], request.body(body.into()).unwrap()).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        audited.take()
    };
    let [one, two] = [1, 2].map(|number| Value::from(hash_of(of(number).as_bytes()).to_string()));
    assert_eq!(changes(&put("a", of(1)).await), [("a", Value::Null, one.clone())]);
    assert_eq!(changes(&put("a", of(2)).await), [("a", one.clone(), two.clone())]);
    assert_eq!(changes(&put("a", of(2)).await), [("a", two.clone(), two.clone())], "unchanged");
    let both = format!("{}?tag=a&tag=b", one.as_str().unwrap());
    let expected = [("a", two.clone(), one.clone()), ("b", Value::Null, one.clone())];
    assert_eq!(changes(&put(&both, of(1)).await), expected);
    let access_token = bearer(&audited.registry.access_token);
    let gone = audited.ask("DELETE", "/v2/open/app/manifests/b", Some(&access_token)).await;
    assert_eq!(changes(&gone), [("b", one.clone(), Value::Null)]);
    let target = format!("/v2/open/app/manifests/{}", one.as_str().unwrap());
    let gone = audited.ask("DELETE", &target, Some(&access_token)).await;
    assert_eq!(changes(&gone), [("a", one.clone(), Value::Null)]);
    let restore = async |path: String, body: String| {
        let request = Request::post(format!("/v2/open/app/_jreg/{path}/restore"));
        let request = request.header("Host", "test").header("Authorization", alice());
        let request = request.header("Content-Type", "application/json");
        let restored = send(&audited.registry.apps[0], request.body(body.into()).unwrap()).await;
        assert_eq!(restored.status, 200, "{}", restored.text());
        audited.take()
    };
    let path = format!("deleted/{}", one.as_str().unwrap());
    let restored = restore(path, r#"{"tags": true}"#.to_owned()).await;
    assert_line(&restored, &[("operation", "manifest_restore".into()), ("action", "push".into())]);
    assert_eq!(changes(&restored), [("a", Value::Null, one.clone())]);
    let restored = restore("tags/a".to_owned(), format!(r#"{{"digest": {two}}}"#)).await;
    assert_line(&restored, &[("operation", "tag_restore".into()), ("reference", "a".into())]);
    assert_eq!(changes(&restored), [("a", one, two)]);
}

/// Tags deleted before the operation failed are recorded.
#[tokio::test]
async fn a_line_says_which_tags_a_failed_delete_removed() {
    let audited = Audited::new(false).await;
    let index = audited.registry.send("GET", MANIFEST, Some(&alice())).await.body;
    let request = Request::put("/v2/open/app/manifests/two").header("Host", "test");
    let request = request.header("Authorization", alice()).body(index.clone().into()).unwrap();
    assert_eq!(send(&audited.registry.apps[0], request).await.status, 201);
    audited.take();
    let damaged = "repositories/open/app/_tags/two".parse().unwrap();
    let mode = jreg_storage::PutMode::Overwrite;
    audited.registry.store.put(&damaged, "rubbish".into(), mode).await.unwrap();
    let access_token = bearer(&audited.registry.access_token);
    let target = format!("/v2/open/app/manifests/{}", hash_of(&index));
    let removed = serde_json::json!(["latest"]);
    assert_line(
        &audited.ask("DELETE", &target, Some(&access_token)).await,
        &[("tags_removed", removed), ("tags_removed_count", 1.into()), ("status", 409.into())],
    );
}

/// The trusted proxy sends no port, so none is recorded.
#[tokio::test]
async fn fixed_the_client_of_a_proxy_has_no_port_and_the_proxy_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let registry = Registry::with(Some(RULES), |settings| {
        settings.audit_log = AuditTarget::File(path.clone());
        settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    for (peer, client, proxy) in [
        ("10.0.0.1:4711", "203.0.113.7", Value::from("10.0.0.1:4711")),
        ("192.0.2.1:4712", "192.0.2.1:4712", Value::Null),
    ] {
        let request = Request::get(MANIFEST).header("Host", "test");
        let request = request.header("X-Forwarded-For", "203.0.113.7");
        let request = request.extension(Peer(peer.parse().unwrap()));
        send(&registry.apps[0], request.body(Body::empty()).unwrap()).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&line["client"], &line["proxy"]), (&client.into(), &proxy));
    }
}

/// Logins on pages, with the statuses that the browser got.
#[tokio::test]
async fn logins_in_a_browser_have_the_status_of_their_response() {
    let audited = Audited::new(false).await;
    let mut browser = super::browser::Browser::new(&audited.registry);
    for (password, status, allowed) in [("wrong", 403, false), ("secret", 303, true)] {
        let response = browser.log_in("alice", password).await;
        assert_eq!(response.status, status);
        let fields = [
            ("operation", "ui_login".into()),
            ("claimed", "alice".into()),
            ("status", status.into()),
            ("allowed", allowed.into()),
        ];
        assert_line(&audited.take(), &fields);
    }
    browser.get("/ui/-/account").await;
    audited.take();
    for (target, operation, status) in
        [("/ui/-/account", "ui_login_token", 200), ("/ui/-/logout", "ui_logout", 303)]
    {
        assert_eq!(browser.post(target, &[]).await.status, status);
        let fields = [("operation", operation.into()), ("status", status.into())];
        assert_line(&audited.take(), &fields);
    }
}
