//! Every operation for every kind of identity, allowed and denied, against the expected response.
//! Both lists are exhaustive matches: a new operation or kind that is missing here does not
//! compile.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use jreg_access::{Right, right_of};
use jreg_config::Settings;
use jreg_oci::{
    Digest, Endpoint, MountSource, PageParams, Reference, RepositoryName, TagHistoryQuery,
};

use super::guarded::{INDEX, Registry, hash_of, send, token_target};
use super::tokens::turns_during;
use crate::app::App;

/// The kinds of identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Anonymous,
    AnonymousToken,
    WrongPassword,
    User,
    UserToken,
    NarrowToken,
    AccessToken,
    ExchangedAccessToken,
    RevokedAccessToken,
    Workload,
    WorkloadToken,
    TokenService,
    Certificate,
    CertificateToken,
}

impl Who {
    /// Each kind with its successor, so that the list is complete.
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Anonymous];
        loop {
            let next = match all.last().unwrap() {
                Self::Anonymous => Self::AnonymousToken,
                Self::AnonymousToken => Self::WrongPassword,
                Self::WrongPassword => Self::User,
                Self::User => Self::UserToken,
                Self::UserToken => Self::NarrowToken,
                Self::NarrowToken => Self::AccessToken,
                Self::AccessToken => Self::ExchangedAccessToken,
                Self::ExchangedAccessToken => Self::RevokedAccessToken,
                Self::RevokedAccessToken => Self::Workload,
                Self::Workload => Self::WorkloadToken,
                Self::WorkloadToken => Self::TokenService,
                Self::TokenService => Self::Certificate,
                Self::Certificate => Self::CertificateToken,
                Self::CertificateToken => return all,
            };
            all.push(next);
        }
    }

    /// Whether they have a client certificate.
    fn has_certificate(self) -> bool {
        matches!(self, Self::Certificate | Self::CertificateToken)
    }

    /// Whether they are authenticated.
    fn is_named(self) -> bool {
        !matches!(
            self,
            Self::Anonymous | Self::AnonymousToken | Self::WrongPassword | Self::RevokedAccessToken
        )
    }

    /// Whether their credentials are valid.
    fn is_good(self) -> bool {
        !matches!(self, Self::WrongPassword | Self::RevokedAccessToken)
    }
}

/// Every operation once, in a repository.
fn endpoints(name: &RepositoryName) -> Vec<Endpoint> {
    let digest: Digest = hash_of(b"x");
    let tag = || "latest".parse().unwrap();
    let reference = || Reference::Tag(tag());
    let name = || name.clone();
    let id = || "none".to_owned();
    let mut all = vec![Endpoint::Ping];
    loop {
        let next = match all.last().unwrap() {
            Endpoint::Ping => Endpoint::Catalog { page: PageParams::default() },
            Endpoint::Catalog { .. } => Endpoint::BlobGet { name: name(), digest: digest.clone() },
            Endpoint::BlobGet { .. } => Endpoint::BlobHead { name: name(), digest: digest.clone() },
            Endpoint::BlobHead { .. } => {
                Endpoint::BlobDelete { name: name(), digest: digest.clone() }
            }
            Endpoint::BlobDelete { .. } => Endpoint::UploadStart {
                name: name(),
                digest: None,
                algorithm: None,
                mount: None,
                from: MountSource::Any,
            },
            Endpoint::UploadStart { .. } => Endpoint::UploadStatus { name: name(), id: id() },
            Endpoint::UploadStatus { .. } => Endpoint::UploadPatch { name: name(), id: id() },
            Endpoint::UploadPatch { .. } => {
                Endpoint::UploadPut { name: name(), id: id(), digest: digest.clone() }
            }
            Endpoint::UploadPut { .. } => Endpoint::UploadCancel { name: name(), id: id() },
            Endpoint::UploadCancel { .. } => {
                Endpoint::ManifestGet { name: name(), reference: reference() }
            }
            Endpoint::ManifestGet { .. } => {
                Endpoint::ManifestHead { name: name(), reference: reference() }
            }
            Endpoint::ManifestHead { .. } => {
                Endpoint::ManifestPut { name: name(), reference: reference(), tags: Vec::new() }
            }
            Endpoint::ManifestPut { .. } => {
                Endpoint::ManifestDelete { name: name(), reference: reference() }
            }
            Endpoint::ManifestDelete { .. } => {
                Endpoint::TagList { name: name(), page: PageParams::default() }
            }
            Endpoint::TagList { .. } => Endpoint::Referrers {
                name: name(),
                subject: digest.clone(),
                artifact_type: None,
                page: PageParams::default(),
            },
            Endpoint::Referrers { .. } => Endpoint::Extensions,
            Endpoint::Extensions => Endpoint::RepositoryExtensions { name: name() },
            Endpoint::RepositoryExtensions { .. } => Endpoint::OciTagHistory {
                name: name(),
                tag: tag(),
                query: TagHistoryQuery::default(),
            },
            Endpoint::OciTagHistory { .. } => {
                Endpoint::TagHistory { name: name(), tag: tag(), page: PageParams::default() }
            }
            Endpoint::TagHistory { .. } => Endpoint::TagRestore { name: name(), tag: tag() },
            Endpoint::TagRestore { .. } => {
                Endpoint::DeletedManifests { name: name(), page: PageParams::default() }
            }
            Endpoint::DeletedManifests { .. } => {
                Endpoint::ManifestRestore { name: name(), digest: digest.clone() }
            }
            Endpoint::ManifestRestore { .. } => Endpoint::Usage { page: PageParams::default() },
            Endpoint::Usage { .. } => return all,
        };
        all.push(next);
    }
}

/// The request of an operation.
fn request_of(endpoint: &Endpoint) -> (&'static str, String) {
    let info = Endpoint::ALL.iter().find(|info| info.id == endpoint.id()).unwrap();
    let name = endpoint.name().map(ToString::to_string).unwrap_or_default();
    let digest = hash_of(b"x").to_string();
    let path = info.template.replace("{name}", &name).replace("{digest}", &digest);
    let path = path.replace("{reference}", "latest").replace("{tag}", "latest");
    let path = path.replace("{id}", "none");
    let query = if info.id == "upload_put" { format!("?digest={digest}") } else { String::new() };
    let method = info.methods[0];
    let target = format!("{path}{query}");
    let (path, query) =
        target.split_once('?').map_or((target.as_str(), None), |(p, q)| (p, Some(q)));
    assert_eq!(Endpoint::parse(method, path, query).unwrap(), *endpoint, "{}", info.id);
    (method, target)
}

fn action_of(right: &Right) -> &'static str {
    match right {
        Right::Enter | Right::List => "list",
        Right::See(_) | Right::Pull(_) => "pull",
        Right::Mount(_) => "mount",
        Right::Push(_) => "push",
        Right::Delete(_) => "delete",
        Right::Fetch(_) => "fetch",
        Right::Admin => "admin",
    }
}

/// The expected response. `None`: that of the operation itself.
fn due(who: Who, right: &Right, granted: bool) -> Option<u16> {
    let within = match right {
        // The scope of this token is empty.
        Right::Enter => true,
        _ => who != Who::NarrowToken,
    };
    match (who.is_good(), who.is_named(), right) {
        (false, _, _) => Some(401),
        // Any credentials are sufficient; without any, the response is a challenge.
        (true, _, Right::Enter) => (who == Who::Anonymous).then_some(401),
        (true, true, _) if granted && within => None,
        (true, true, _) if granted => Some(401),
        (true, true, Right::Pull(_) | Right::See(_) | Right::Mount(_)) => Some(404),
        (true, true, _) => Some(403),
        (true, false, _) if granted => None,
        (true, false, _) => Some(401),
    }
}

/// Allows one action to everyone below `open`, and makes one action public, so that there are
/// anonymous tokens.
fn policy(action: &str, issuers: &str) -> String {
    format!(
        "{issuers}\n[[rule]]\nsubjects = ['everyone']\nrepositories = ['open/**']\nactions = \
         ['{action}']\n[[rule]]\nsubjects = ['everyone']\nrepositories = ['always/open']\nactions = \
         ['pull', 'push', 'delete']\n"
    )
}

/// The `Authorization` header of an identity.
async fn header(registry: &Registry, who: Who, name: &RepositoryName) -> Option<String> {
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("alice:{password}")));
    let scope = format!(
        "repository:{name}:pull,push,delete registry:catalog:* repository:always/open:pull"
    );
    let exchanged = async |header: Option<String>| {
        let token = registry.token(header.as_deref(), &scope).await;
        Some(format!("Bearer {}", token.unwrap()))
    };
    match who {
        Who::Anonymous => None,
        Who::AnonymousToken => exchanged(None).await,
        Who::WrongPassword => Some(basic("wrong")),
        Who::User => Some(basic("secret")),
        Who::UserToken => exchanged(Some(basic("secret"))).await,
        Who::NarrowToken => {
            let token = registry.token(Some(&basic("secret")), "").await;
            Some(format!("Bearer {}", token.unwrap()))
        }
        Who::AccessToken => Some(basic(&registry.access_token)),
        Who::ExchangedAccessToken => exchanged(Some(basic(&registry.access_token))).await,
        Who::RevokedAccessToken => Some(basic(&registry.revoked)),
        Who::Workload => Some(basic(&registry.workload)),
        Who::WorkloadToken => exchanged(Some(basic(&registry.workload))).await,
        Who::TokenService => {
            let all = ["pull", "push", "delete"].map(str::to_owned);
            Some(format!("Bearer {}", registry.access(name.as_str(), &all)))
        }
        Who::Certificate => None,
        Who::CertificateToken => {
            let response = registry.send_as("builder", "GET", &token_target(&scope), None).await;
            Some(format!("Bearer {}", response.json()["token"].as_str().unwrap()))
        }
    }
}

/// Access tokens and the external token service carry their own grants, whatever the policy allows:
/// closed repositories are closed to them by a deny rule.
fn denying(name: &str, action: &str) -> String {
    format!(
        "[[rule]]\nname = 'closed'\neffect = 'deny'\nsubjects = ['everyone']\nrepositories = \
         ['{name}']\nactions = ['{action}']\n"
    )
}

#[tokio::test]
async fn c11_every_operation_responds_to_every_kind_of_identity_as_is_due() {
    let (open, closed): (RepositoryName, RepositoryName) =
        ("open/app".parse().unwrap(), "closed/app".parse().unwrap());
    let mut cells = 0;
    for action in ["list", "pull", "push", "delete"] {
        for granted in [true, false] {
            // Listings have no repository that could be closed.
            let rules = match (action, granted) {
                ("list", true) => policy(action, &Registry::issuers()),
                ("list", false) => policy("mount", &Registry::issuers()) + &denying("**", "list"),
                _ => policy(action, &Registry::issuers()) + &denying("closed/**", action),
            };
            let registry = Arc::new(Registry::with_policy(&rules).await);
            let name = if granted { &open } else { &closed };
            let asked: Vec<_> = endpoints(name)
                .into_iter()
                .filter(|endpoint| action_of(&right_of(endpoint)) == action)
                .collect();
            for who in Who::all() {
                let header = header(&registry, who, name).await;
                for endpoint in &asked {
                    let right = right_of(endpoint);
                    let (method, target) = request_of(endpoint);
                    let header = header.as_deref();
                    let response = match who.has_certificate() {
                        true => registry.send_as("builder", method, &target, header).await,
                        false => registry.send(method, &target, header).await,
                    };
                    let status = response.status;
                    let context = format!("{who:?} {method} {target} granted: {granted}");
                    match due(who, &right, granted) {
                        Some(due) => {
                            assert_eq!(status.as_u16(), due, "{context}: {}", response.text());
                            let challenged = response.headers.contains_key("www-authenticate");
                            assert_eq!(challenged, due == 401, "{context}");
                        }
                        // Existing content is served.
                        None if action == "pull" => {
                            assert_eq!(status, StatusCode::OK, "{context}: {}", response.text());
                        }
                        None => assert!(
                            status != StatusCode::UNAUTHORIZED
                                && status != StatusCode::FORBIDDEN
                                && !status.is_server_error(),
                            "{context}: {status} {}",
                            response.text()
                        ),
                    }
                    cells += 1;
                }
            }
        }
    }
    // Every operation, allowed and not, for every kind.
    assert_eq!(cells, endpoints(&open).len() * 2 * Who::all().len());
}

/// Fixtures of [`c13_a_tag_that_may_not_be_deleted_protects_what_it_needs`].
struct Content {
    app: App,
    name: &'static str,
}

impl Content {
    /// Pushes without authentication.
    async fn push(&self, method: &str, path: &str, media: &str, bytes: &[u8]) -> Digest {
        let target = format!("/v2/{}/{path}", self.name);
        let request = http::Request::builder().method(method).uri(target).header("Host", "test");
        let request = request.header("Content-Type", media).body(bytes.to_vec().into()).unwrap();
        let response = send(&self.app, request).await;
        assert_eq!(response.status, StatusCode::CREATED, "{}", response.text());
        hash_of(bytes)
    }

    async fn blob(&self, bytes: &'static str) -> Digest {
        let path = format!("blobs/uploads/?digest={}", hash_of(bytes.as_bytes()));
        self.push("POST", &path, "application/octet-stream", bytes.as_bytes()).await
    }

    /// An image with one layer; returns its digest and the layer's.
    async fn image(&self, reference: Option<&str>, layer: &'static str) -> (Digest, Digest) {
        let (config, layer) = (self.blob("{}").await, self.blob(layer).await);
        let of = |kind: &str, digest: &Digest| {
            let media = format!("application/vnd.oci.image.{kind}");
            serde_json::json!({ "mediaType": media, "digest": digest, "size": 2 })
        };
        let media = "application/vnd.oci.image.manifest.v1+json";
        let bytes = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media,
            "config": of("config.v1+json", &config),
            "layers": [of("layer.v1.tar", &layer)],
        });
        let bytes = bytes.to_string();
        let digest = hash_of(bytes.as_bytes()).to_string();
        let path = format!("manifests/{}", reference.unwrap_or(&digest));
        (self.push("PUT", &path, media, bytes.as_bytes()).await, layer)
    }

    async fn index(&self, reference: &str, child: &Digest) -> Digest {
        let media = "application/vnd.oci.image.index.v1+json";
        let child = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": child, "size": 2,
        });
        let bytes = serde_json::json!({
            "schemaVersion": 2, "mediaType": media, "manifests": [child],
        });
        let path = format!("manifests/{reference}");
        self.push("PUT", &path, media, bytes.to_string().as_bytes()).await
    }
}

const RELEASES: &str = "
    [[rule]]\nname = 'alice works'\nsubjects = ['user:alice']\nrepositories = ['open/**']\n\
    actions = ['pull', 'push', 'delete']\n\
    [[rule]]\nname = 'released tags stay'\neffect = 'deny'\nsubjects = ['everyone']\n\
    repositories = ['open/**']\nactions = ['push', 'delete']\ncondition = \"tag.startsWith('v')\"\n";

#[tokio::test]
async fn c13_a_tag_that_may_not_be_deleted_protects_what_it_needs() {
    let registry = Registry::with_policy(RELEASES).await;
    let app = App::build(Settings::default(), Arc::clone(&registry.store)).await.unwrap();
    let content = Content { app, name: "open/releases" };
    let (one, one_layer) = content.image(Some("v1"), "one").await;
    content.image(Some("dev-1"), "one").await;
    let (child, child_layer) = content.image(None, "child").await;
    let index = content.index("v2", &child).await;
    let (other, other_layer) = content.image(Some("dev-2"), "other").await;
    let (moved, _) = content.image(Some("v3"), "moved").await;
    content.index("v3", &child).await;
    let config = hash_of(b"{}");
    for (method, path, due) in [
        ("PUT", "manifests/v1".to_owned(), 403),
        ("PUT", format!("manifests/{one}?tag=v2"), 403),
        ("PUT", format!("manifests/{one}?tag=dev-3&tag=v2"), 403),
        ("DELETE", "manifests/v1".to_owned(), 403),
        ("DELETE", format!("manifests/{one}"), 403),
        ("DELETE", format!("manifests/{index}"), 403),
        ("DELETE", format!("manifests/{child}"), 403),
        ("DELETE", format!("blobs/{one_layer}"), 403),
        ("DELETE", format!("blobs/{child_layer}"), 403),
        ("DELETE", format!("blobs/{config}"), 403),
        ("DELETE", format!("blobs/{index}"), 403),
        ("GET", "manifests/dev-1".to_owned(), 200),
        ("GET", format!("manifests/{one}"), 200),
        ("GET", format!("blobs/{one_layer}"), 200),
        ("GET", format!("blobs/{child_layer}"), 200),
        ("DELETE", format!("blobs/{other_layer}"), 202),
        ("DELETE", format!("manifests/{other}"), 202),
        ("GET", "manifests/dev-2".to_owned(), 404),
        ("DELETE", format!("manifests/{moved}"), 202),
        ("GET", "manifests/v3".to_owned(), 200),
        ("DELETE", "manifests/dev-1".to_owned(), 202),
        ("GET", "manifests/v1".to_owned(), 200),
    ] {
        let alice = format!("Basic {}", STANDARD.encode("alice:secret"));
        let target = format!("/v2/open/releases/{path}");
        let response = registry.send(method, &target, Some(&alice)).await;
        assert_eq!(response.status.as_u16(), due, "{method} {path}: {}", response.text());
    }
}

/// A policy that may match any tag.
fn releases_by_many_rules(rules: usize) -> String {
    let rule = |number: usize| {
        format!(
            "[[rule]]\neffect = 'deny'\nsubjects = ['everyone']\nrepositories = ['open/**']\n\
             actions = ['delete']\ncondition = \"tag == 'release-{number}'\"\n"
        )
    };
    RELEASES.to_owned() + &(0..rules).map(rule).collect::<String>()
}

/// A request has one budget for the conditions of all tags, and yields in between.
#[tokio::test]
async fn c13_conditions_of_a_delete_by_digest_are_bounded() {
    const RULES: usize = 900;
    let registry = Registry::with_policy(&releases_by_many_rules(RULES)).await;
    let alice = format!("Basic {}", STANDARD.encode("alice:secret"));
    registry.send("GET", "/v2/", Some(&alice)).await;
    for (name, tags, due) in [("open/few", 10, 202), ("open/many", 30, 403)] {
        let app = App::build(Settings::default(), Arc::clone(&registry.store)).await.unwrap();
        let content = Content { app, name };
        let mut image = None;
        for tag in 0..tags {
            image = Some(content.image(Some(&format!("dev-{tag}")), "layer").await.0);
        }
        let target = format!("/v2/{name}/manifests/{}", image.unwrap());
        let (response, turns) =
            Box::pin(turns_during(registry.send("DELETE", &target, Some(&alice)))).await;
        assert_eq!(response.status.as_u16(), due, "{name}: {}", response.text());
        let is_refused = response.text().contains("20000 conditions");
        assert_eq!(is_refused, due == 403, "{name}: {}", response.text());
        assert!(turns >= 2, "{name}: {turns}");
    }
}

/// A restore sets tags: the rules on tags apply to each of them, whether the request names it or not.
#[tokio::test]
async fn a_restore_sets_no_tag_that_may_not_be_pushed() {
    let registry = Registry::with_policy(RELEASES).await;
    let app = App::build(Settings::default(), Arc::clone(&registry.store)).await.unwrap();
    let content = Content { app, name: "open/releases" };
    let (one, _) = content.image(Some("v1"), "one").await;
    content.image(Some("dev-1"), "one").await;
    let (two, _) = content.image(Some("dev-2"), "two").await;
    let alice = format!("Basic {}", STANDARD.encode("alice:secret"));
    let path = |path: &str| format!("/v2/open/releases/{path}");
    let delete = http::Request::delete(path(&format!("manifests/{one}"))).header("Host", "test");
    let deleted = send(&content.app, delete.body(jreg_net::server::Body::empty()).unwrap()).await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    let restore = format!("_jreg/deleted/{one}/restore");
    for (target, body, due) in [
        (&*path(&restore), r#"{"tags": true}"#.to_owned(), 403),
        (&path("_jreg/tags/v1/restore"), format!(r#"{{"digest": "{two}"}}"#), 403),
        (&path("_jreg/tags/dev-3/restore"), format!(r#"{{"digest": "{two}"}}"#), 200),
        (&path(&format!("manifests/{one}")), String::new(), 404),
        (&path(&restore), "{}".to_owned(), 200),
        (&path(&format!("manifests/{one}")), String::new(), 200),
        (&path("manifests/v1"), String::new(), 404),
        (&path("manifests/dev-1"), String::new(), 404),
        (&path("manifests/dev-3"), String::new(), 200),
    ] {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = http::Request::builder().method(method).uri(target).header("Host", "test");
        let request = request.header("Authorization", &alice);
        let request = request.header("Content-Type", "application/json");
        let response = send(&registry.apps[0], request.body(body.into()).unwrap()).await;
        assert_eq!(response.status.as_u16(), due, "{method} {target}: {}", response.text());
    }
}

const BLIND: &str = "
    [[rule]]\nname = 'all'\nsubjects = ['user:alice']\nrepositories = ['open/seen']\n\
    actions = ['pull', 'push', 'delete']\n\
    [[rule]]\nname = 'no pull'\nsubjects = ['user:alice']\nrepositories = ['open/blind']\n\
    actions = ['push', 'delete']\n";

/// An identity that may push and delete but not pull does not learn what is there: neither what a tag points to nor
/// whether what it restores exists.
#[tokio::test]
async fn fixed_changes_without_pull_do_not_tell_what_is_there() {
    let files = tempfile::tempdir().unwrap();
    let lifecycle = files.path().join("lifecycle.toml");
    let rules = "[[immutable]]\nrepositories = ['open/**']\ntags = ['fixed']\n[end]\n";
    std::fs::write(&lifecycle, rules).unwrap();
    let path = lifecycle.display().to_string();
    let registry = Registry::with(Some(BLIND), |settings| settings.lifecycle = Some(path)).await;
    let alice = format!("Basic {}", STANDARD.encode("alice:secret"));
    let (absent, pushed) = (hash_of(b"absent"), hash_of(INDEX.as_bytes()));
    for (name, sees) in [("open/seen", true), ("open/blind", false)] {
        let app = App::build(Settings::default(), Arc::clone(&registry.store)).await.unwrap();
        let content = Content { app, name };
        let (one, _) = content.image(Some("v1"), "one").await;
        content.image(Some("fixed"), "one").await;
        let (two, _) = content.image(Some("v2"), "two").await;
        let (gone, _) = content.image(None, "gone").await;
        let delete = http::Request::delete(format!("/v2/{name}/manifests/{gone}"));
        let delete = delete.header("Host", "test").body(jreg_net::server::Body::empty()).unwrap();
        assert_eq!(send(&content.app, delete).await.status, StatusCode::ACCEPTED);

        let one = one.to_string();
        let restored = format!("{{\"digest\":\"{two}\"}}");
        let unknown = format!("{{\"digest\":\"{absent}\"}}");
        let of_tag = format!("manifests/{pushed}?tag=fixed");
        let (of_two, of_one) = (format!("manifests/{two}"), format!("manifests/{one}"));
        let of_gone = format!("_jreg/deleted/{gone}/restore");
        let of_absent = format!("_jreg/deleted/{absent}/restore");
        let tag = "_jreg/tags/v1/restore";
        // What a client that may pull is told.
        for (method, target, condition, body, due, told) in [
            ("PUT", "manifests/v1", true, INDEX, (412, 412), &*one),
            ("DELETE", "manifests/v1", true, "", (412, 412), &one),
            ("DELETE", &of_two, true, "", (412, 412), "is at"),
            ("PUT", "manifests/fixed", false, INDEX, (409, 409), &one),
            ("PUT", &of_tag, false, INDEX, (201, 201), &one),
            ("DELETE", "manifests/fixed", false, "", (409, 409), &one),
            ("DELETE", &of_one, false, "", (409, 409), "tag fixed"),
            ("POST", tag, true, &restored, (412, 403), &one),
            ("POST", tag, false, &restored, (200, 403), &one),
            ("POST", tag, false, &unknown, (404, 403), "MANIFEST_UNKNOWN"),
            ("POST", &of_gone, false, "{}", (200, 403), "tagsKept"),
            ("POST", &of_absent, false, "{}", (404, 403), "MANIFEST_UNKNOWN"),
        ] {
            let kind = match method {
                "POST" => "application/json",
                _ => "application/vnd.oci.image.index.v1+json",
            };
            let request = http::Request::builder().method(method).header("Host", "test");
            let request = request.uri(format!("/v2/{name}/{target}"));
            let request = request.header("Authorization", &alice).header("Content-Type", kind);
            let request = match condition {
                true => request.header("If-Match", format!("\"{absent}\"")),
                false => request,
            };
            let request = request.body(body.to_owned().into()).unwrap();
            let response = send(&registry.apps[0], request).await;
            let said = format!("{:?} {}", response.headers, response.text());
            let due = if sees { due.0 } else { due.1 };
            assert_eq!(response.status.as_u16(), due, "{method} {name}/{target}: {said}");
            assert_eq!(said.contains(told), sees, "{method} {name}/{target}: {said}");
        }
    }
}
