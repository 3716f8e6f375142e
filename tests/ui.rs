//! The web UI: what its pages show, who may see them, which forms are accepted, and what hostile content does to them.

use async_trait::async_trait;
use jreg_access::{
    AuthContext, AuthError, Authorizer, CredentialState, Principal, RefusedAccess, RequestInfo,
    Right,
};
use jreg_auth::DecisionReason;
use jreg_http::UI_ROUTES;
use jreg_oci::{RepositoryName, Tag};
use jreg_testkit::{
    Image, Manifest, Request, Response, ServerSpec, StoreKind, TestServer, media, sha256,
};
use serde_json::json;

/// A server with a client that follows no redirect.
struct Site(TestServer);

impl Site {
    async fn start(spec: ServerSpec) -> Self {
        Self(TestServer::start(spec).await)
    }

    async fn send(&self, request: Request) -> Response {
        self.0.client().send_unchecked(&request.header("Connection", "close")).await.unwrap()
    }

    async fn get(&self, target: &str) -> Response {
        self.send(Request::new("GET", target)).await
    }

    /// The page at an address, which must be one.
    async fn page(&self, target: &str) -> String {
        let response = self.get(target).await;
        assert_eq!(response.status, 200, "{target}\n{response}");
        check_headers(&response);
        text(&response)
    }

    async fn blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let response = self.send(Request::new("POST", target).body(bytes.to_vec())).await;
        assert_eq!(response.status, 201, "{response}");
        digest
    }

    async fn push(&self, name: &str, reference: &str, manifest: &Manifest) -> String {
        let request = Request::new("PUT", format!("/v2/{name}/manifests/{reference}"))
            .header("Content-Type", &manifest.media_type)
            .body(manifest.bytes.clone());
        let response = self.send(request).await;
        assert_eq!(response.status, 201, "{response}");
        manifest.digest()
    }

    async fn push_image(&self, name: &str, tag: &str, seed: u64) -> String {
        let image = Image::plain(seed);
        for blob in &image.blobs {
            self.blob(name, &blob.bytes).await;
        }
        self.push(name, tag, &image.manifest).await
    }

    /// Sends a form with what a browser sends, with the token of `page`.
    async fn post(&self, page: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        let response = self.get(page).await;
        let cookie = response.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
        let html = text(&response);
        let token = html.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next();
        self.send_form(target, fields, token.unwrap(), &cookie, &self.origin()).await
    }

    fn origin(&self) -> String {
        format!("http://{}", self.0.client().address())
    }

    async fn send_form(
        &self,
        target: &str,
        fields: &[(&str, &str)],
        token: &str,
        cookie: &str,
        origin: &str,
    ) -> Response {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("token", token).extend_pairs(fields);
        let request = Request::new("POST", target)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Origin", origin)
            .header("Cookie", cookie)
            .body(body.finish());
        self.send(request).await
    }
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body.to_vec()).unwrap()
}

/// What every page must have.
#[track_caller]
fn check_headers(response: &Response) {
    for (name, value) in [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "same-origin"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        (
            "Content-Security-Policy",
            "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; \
             connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
    assert_eq!(response.header("WWW-Authenticate"), None);
    let html = text(response);
    for banned in ["style=\"", " onclick", " onload", "<script>", "<style", "javascript:alert(1)\""]
    {
        assert!(!html.contains(banned), "{banned}\n{html}");
    }
}

fn image_of(config: serde_json::Value, annotations: serde_json::Value) -> (Vec<u8>, Manifest) {
    let config = config.to_string().into_bytes();
    let content = json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": {"mediaType": media::CONFIG, "digest": sha256(&config), "size": config.len()},
        "layers": [],
        "annotations": annotations,
    });
    (config, Manifest::compact(media::MANIFEST, &content))
}

#[tokio::test]
async fn a_browser_is_sent_to_the_ui_and_others_get_text() {
    let site = Site::start(ServerSpec::default()).await;
    let accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    let browser = site.send(Request::new("GET", "/").header("Accept", accept)).await;
    assert_eq!((browser.status, browser.header("Location")), (303, Some("/ui/")));
    assert_eq!(browser.header("Vary"), Some("Accept"));
    for accept in ["*/*", "application/json"] {
        let other = site.send(Request::new("GET", "/").header("Accept", accept)).await;
        assert_eq!((other.status, other.header("Vary")), (200, Some("Accept")));
        assert!(text(&other).starts_with("jreg "));
    }
}

#[tokio::test]
async fn without_the_ui_there_is_no_route() {
    let site = Site::start(ServerSpec::with(|settings| settings.ui = false)).await;
    let root = site.send(Request::new("GET", "/").header("Accept", "text/html")).await;
    assert_eq!(root.status, 200);
    for target in ["/ui", "/ui/", "/ui/a", "/ui/-/assets/x", "/ui/a/-/delete"] {
        let response = site.get(target).await;
        assert_eq!((response.status, response.error_code().as_deref()), (404, Some("UNSUPPORTED")));
    }
}

#[tokio::test]
async fn an_image_is_found_understood_and_copied() {
    let site = Site::start(ServerSpec::with(|settings| {
        settings.public_url = jreg_config::Value::parse("https://r.example/sub").unwrap();
    }))
    .await;
    let digest = site.push_image("library/nginx", "1.27", 1).await;
    site.push_image("library/redis", "7", 2).await;
    let home = site.page("/ui/").await;
    assert!(home.contains("href=\"/sub/ui/?in=library\""), "{home}");
    let folder = site.page("/ui/?in=library").await;
    assert!(folder.contains("href=\"/sub/ui/library/nginx\""), "{folder}");
    assert!(!folder.contains("–"), "in memory, tags are counted");
    let tags = site.page("/ui/library/nginx").await;
    assert!(tags.contains("href=\"/sub/ui/library/nginx:1.27\"") && tags.contains(&digest));
    let image = site.page("/ui/library/nginx:1.27").await;
    for shown in [
        "docker pull r.example/sub/library/nginx:1.27",
        "podman pull r.example/sub/library/nginx:1.27",
        &format!("docker pull r.example/sub/library/nginx@{digest}"),
    ] {
        assert!(image.contains(shown), "{shown}\n{image}");
    }
    let found = site.page("/ui/-/search?q=ngnix").await;
    assert!(found.contains("Did you mean") && found.contains("library/nginx"), "{found}");
    let found = site.page("/ui/-/search?q=r.example/sub/library/nginx:1.2").await;
    assert!(found.contains("/ui/library/nginx:1.27"), "{found}");
    for page in ["manifests", "lifecycle", "usage?count=yes", &format!("kept/{digest}?tag=1.27")] {
        site.page(&format!("/ui/library/nginx/-/{page}")).await;
    }
    for page in ["usage?count=yes", "activity", "search"] {
        site.page(&format!("/ui/-/{page}")).await;
    }
}

#[tokio::test]
async fn pages_reference_assets_that_are_immutable() {
    let site = Site::start(ServerSpec::default()).await;
    let home = site.page("/ui/").await;
    let assets: Vec<&str> =
        home.split('"').filter(|part| part.starts_with("/ui/-/assets/")).collect();
    assert!(assets.len() >= 3, "{assets:?}");
    for asset in assets {
        let response = site.get(asset).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("Cache-Control"), Some("public, max-age=31536000, immutable"));
        assert!(!response.header("Content-Type").unwrap().contains("html"));
    }
    assert_eq!(site.get("/ui/-/assets/style.css").await.status, 404);
}

#[tokio::test]
async fn a_tag_is_restored_from_its_history() {
    let site = Site::start(ServerSpec::default()).await;
    let before = site.push_image("app", "latest", 1).await;
    let after = site.push_image("app", "latest", 2).await;
    let page = "/ui/app/-/history/latest";
    let history = site.page(page).await;
    assert!(history.contains(&before) && history.contains(&after), "{history}");
    let fields = [("tag", "latest"), ("digest", before.as_str()), ("current", after.as_str())];
    let done = site.post(page, "/ui/app/-/restore-tag", &fields).await;
    assert_eq!(done.status, 303, "{done}");
    let shown = site.page(done.header("Location").unwrap()).await;
    assert!(shown.contains("The tag was restored."), "{shown}");
    let now = site.get("/v2/app/manifests/latest").await;
    assert_eq!(now.header("Docker-Content-Digest"), Some(before.as_str()));
    let stale = site.post(page, "/ui/app/-/restore-tag", &fields).await;
    assert_eq!(stale.status, 412, "it has moved meanwhile");
    check_headers(&stale);
}

#[tokio::test]
async fn tags_and_manifests_are_deleted_and_restored() {
    let site = Site::start(ServerSpec::default()).await;
    let digest = site.push_image("app", "v1", 1).await;
    for tag in ["v2", "v3"] {
        site.push_image("app", tag, 1).await;
    }
    let question = "/ui/app/-/delete?tag=v2&tag=v3";
    let html = site.page(question).await;
    assert!(html.contains("Delete 2 tags?"), "{html}");
    assert_eq!(site.get("/v2/app/manifests/v2").await.status, 200, "a question deletes nothing");
    let done = site.post(question, "/ui/app/-/delete", &[("tag", "v2"), ("tag", "v3")]).await;
    assert_eq!(done.status, 303, "{done}");
    assert_eq!(site.get("/v2/app/manifests/v2").await.status, 404);
    assert_eq!(site.get("/v2/app/manifests/v1").await.status, 200);

    let question = format!("/ui/app/-/delete?digest={digest}");
    assert!(site.page(&question).await.contains("v1"), "the tags that go with it");
    let done = site.post(&question, "/ui/app/-/delete", &[("digest", &digest)]).await;
    assert_eq!(done.status, 303, "{done}");
    assert_eq!(site.get("/v2/app/manifests/v1").await.status, 404);
    let gone = site.get("/ui/app:v1").await;
    assert_eq!((gone.status, gone.header("Location")), (303, Some("/ui/app/-/history/v1")));
    let deleted = site.page("/ui/app/-/deleted").await;
    assert!(deleted.contains(&digest), "{deleted}");
    let fields = [("digest", digest.as_str()), ("tags", "on")];
    let done = site.post("/ui/app/-/deleted", "/ui/app/-/restore-manifest", &fields).await;
    assert_eq!(done.status, 303, "{done}");
    assert_eq!(site.get("/v2/app/manifests/v1").await.status, 200);
}

#[tokio::test]
async fn a_deleted_tag_is_listed_and_restored_from_there() {
    for store in [StoreKind::Folder, StoreKind::Bucket] {
        let site = Site::start(ServerSpec::default().store(store)).await;
        let digest = site.push_image("app", "v1", 1).await;
        for tag in ["v1-alpine", "v2", "v10"] {
            site.push_image("app", tag, 2).await;
        }
        for tag in ["v1", "v2"] {
            let deleted =
                site.send(Request::new("DELETE", format!("/v2/app/manifests/{tag}"))).await;
            assert_eq!(deleted.status, 202, "{deleted}");
        }
        let page = site.page("/ui/app/-/deleted").await;
        let rows: Vec<&str> = page.split("/ui/app/-/history/").skip(1).collect();
        let names: Vec<_> = rows.iter().map(|row| row.split('"').next().unwrap()).collect();
        assert_eq!(names, ["v1", "v2"], "{page}");
        assert!(rows[0].contains("Restore the tag v1") && rows[0].contains(&digest), "{page}");
        let tags = site.page("/ui/app?details=yes").await;
        assert!(tags.contains("docker pull") && tags.contains("/app:v1"), "{tags}");
        let gone = site.get("/ui/app:v1").await;
        assert_eq!((gone.status, gone.header("Location")), (303, Some("/ui/app/-/history/v1")));
        assert_eq!(site.get("/ui/app:none").await.status, 404);
        let fields = [("tag", "v1"), ("digest", digest.as_str())];
        let restored = site.post("/ui/app/-/deleted", "/ui/app/-/restore-tag", &fields).await;
        assert_eq!(restored.status, 303, "{restored}");
        let page = site.page("/ui/app/-/deleted").await;
        assert!(!page.contains("history/v1\"") && page.contains("history/v2\""), "{page}");
        assert!(site.page("/ui/app:v1").await.contains("docker pull"));
    }
}

#[tokio::test]
async fn deletes_that_are_off_are_not_offered_or_done() {
    let site = Site::start(ServerSpec::with(|settings| settings.deletes = false)).await;
    site.push_image("app", "v1", 1).await;
    assert!(!site.page("/ui/app").await.contains("Delete…"));
    assert!(!site.page("/ui/app:v1").await.contains("Delete…"));
    let refused = site.post("/ui/app/-/delete?tag=v1", "/ui/app/-/delete", &[("tag", "v1")]).await;
    assert_eq!(refused.status, 405, "{refused}");
    assert_eq!(site.get("/v2/app/manifests/v1").await.status, 200);
}

#[tokio::test]
async fn a_form_of_another_origin_or_without_its_token_does_nothing() {
    let site = Site::start(ServerSpec::default()).await;
    site.push_image("app", "v1", 1).await;
    let page = site.get("/ui/app/-/delete?tag=v1").await;
    let cookie = page.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
    let html = text(&page);
    let token = html.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let (target, fields, ours) = ("/ui/app/-/delete", [("tag", "v1")], site.origin());
    let host = site.0.client().address().to_string();
    for (origin, token, cookie) in [
        ("https://evil.example", token, cookie.as_str()),
        ("null", token, &cookie),
        (&format!("http://{host}.evil.example"), token, &cookie),
        ("http://127.0.0.1", token, &cookie),
        (&ours, "", &cookie),
        (&ours, "0123456789abcdef0123456789abcdef", &cookie),
        (&ours, token, ""),
        (&ours, token, "jreg-form=00000000000000000000000000000000"),
    ] {
        let response = site.send_form(target, &fields, token, cookie, origin).await;
        assert_eq!(response.status, 403, "{origin} {token} {cookie}\n{response}");
        check_headers(&response);
    }
    let body = format!("token={token}&tag=v1");
    let bare = Request::new("POST", target).header("Cookie", &cookie).body(body.clone());
    assert_eq!(site.send(bare.clone()).await.status, 403, "without an Origin");
    let cross = bare.clone().header("Origin", &ours).header("Sec-Fetch-Site", "cross-site");
    assert_eq!(site.send(cross).await.status, 403);
    let twice = bare.clone().header("Origin", &ours).header("Origin", "https://evil.example");
    assert_eq!(site.send(twice).await.status, 403);
    let large = Request::new("POST", target).header("Origin", &ours).header("Cookie", &cookie);
    assert_eq!(site.send(large.body(vec![b'a'; 100_000])).await.status, 413);
    assert_eq!(site.get("/v2/app/manifests/v1").await.status, 200, "it is still there");
    let good =
        site.send(bare.header("Origin", &ours).header("Sec-Fetch-Site", "same-origin")).await;
    assert_eq!(good.status, 303, "{good}");
}

/// Below `secret/` nothing may be seen, below `fixed/` nothing changed.
#[derive(Debug)]
struct Prefixes;

impl Prefixes {
    fn name(right: &Right) -> Option<&RepositoryName> {
        match right {
            Right::Enter | Right::List | Right::Admin => None,
            Right::See(name)
            | Right::Pull(name)
            | Right::Mount(name)
            | Right::Fetch(name)
            | Right::Push(name)
            | Right::Delete(name) => Some(name),
        }
    }
}

#[async_trait]
impl Authorizer for Prefixes {
    async fn identify(&self, info: RequestInfo, _: &Right) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Principal::anonymous(), info))
    }

    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        let seeds = auth.request_info.headers.contains_key("x-seed");
        let name = Self::name(right).map(RepositoryName::as_str).unwrap_or_default();
        let access = RefusedAccess::new(CredentialState::No, right);
        let reason = "by the test".to_owned();
        match right {
            _ if seeds => Ok(DecisionReason::Open),
            _ if name.starts_with("secret/") => {
                let name = Self::name(right).unwrap().clone();
                Err(AuthError::Hidden { name, access, reason })
            }
            Right::Push(_) | Right::Delete(_) if name.starts_with("fixed/") => {
                Err(AuthError::Forbidden { access, reason })
            }
            _ => Ok(DecisionReason::Open),
        }
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        _: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        self.grant(auth, right)
    }

    fn depends_on_tag(&self, _: &AuthContext, _: &Right) -> bool {
        false
    }
}

/// Pushes with the header that [`Prefixes`] grants everything to.
async fn seed(site: &Site, name: &str, tag: &str) -> String {
    let image = Image::plain(9);
    for blob in &image.blobs {
        let target = format!("/v2/{name}/blobs/uploads/?digest={}", blob.digest());
        let request = Request::new("POST", target).header("X-Seed", "1").body(blob.bytes.clone());
        assert_eq!(site.send(request).await.status, 201);
    }
    let request = Request::new("PUT", format!("/v2/{name}/manifests/{tag}"))
        .header("X-Seed", "1")
        .header("Content-Type", &image.manifest.media_type)
        .body(image.manifest.bytes.clone());
    assert_eq!(site.send(request).await.status, 201);
    image.manifest.digest()
}

/// A page of a repository as it is compared: without what differs from request to request.
fn compared(response: &Response, name: &str) -> (u16, String) {
    let id = response.header("X-Request-ID").unwrap();
    (response.status, text(response).replace(id, "ID").replace(name, "NAME"))
}

#[tokio::test]
async fn what_may_not_be_seen_is_as_if_it_were_not_there_on_every_page() {
    let site = Site::start(ServerSpec::default().authorizer(Prefixes)).await;
    let digest = seed(&site, "secret/app", "v1").await;
    seed(&site, "fixed/app", "v1").await;
    seed(&site, "open/app", "v1").await;
    let (origin, cookie) = (site.origin(), "jreg-form=00000000000000000000000000000000");
    for info in UI_ROUTES {
        for method in info.methods {
            let ask = async |name: &str| {
                let target = info.template.replace("{name}", name).replace("{tag}", "v1");
                let target = target.replace("{digest}", &digest);
                let target = target.replace("{issuer}", "none").replace("{asset}", "none");
                let request = Request::new(method, target.clone());
                match *method {
                    "POST" => {
                        let fields = [("digest", digest.as_str()), ("tag", "v1")];
                        let page = site.get("/ui/open/app/-/delete?tag=v1").await;
                        let set = page.header("Set-Cookie").unwrap().split(';').next().unwrap();
                        let html = text(&page);
                        let token = html.split("name=\"token\" value=\"").nth(1).unwrap();
                        let token = token.split('"').next().unwrap();
                        assert_ne!(set, cookie);
                        let target = target.split('?').next().unwrap().to_owned();
                        site.send_form(&target, &fields, token, set, &origin).await
                    }
                    _ => site.send(request).await,
                }
            };
            let (hidden, absent) = (ask("secret/app").await, ask("secret/none").await);
            let what = format!("{method} {}", info.template);
            assert_eq!(compared(&hidden, "secret/app"), compared(&absent, "secret/none"), "{what}");
            if info.template.contains("{name}/")
                || info.template.contains("{name}:") && !info.template.contains('?')
            {
                assert_eq!(hidden.status, 404, "{what}");
            }
            let fixed = ask("fixed/app").await;
            let status = match (info.id, *method) {
                ("ui-deleted" | "ui-delete" | "ui-restore-tag" | "ui-restore-manifest", _) => 403,
                // The manifest is no blob, and there is no such asset.
                ("ui-blob" | "ui-asset", _) => 404,
                // Logins are off.
                ("ui-account", "GET" | "HEAD") | ("ui-logout", _) => 303,
                ("ui-account" | "ui-login", "POST") => 404,
                ("ui-login-begin" | "ui-login-callback" | "ui-access-token-revoke", _) => 404,
                _ => 200,
            };
            assert_eq!(fixed.status, status, "{what}\n{fixed}");
            assert_eq!(hidden.header("WWW-Authenticate"), None);
        }
    }
    let page = site.page("/ui/fixed/app").await;
    assert!(!page.contains("Delete…") && !page.contains("/-/deleted"), "{page}");
    assert!(!site.page("/ui/-/search?q=app").await.contains("secret/app"));
    assert!(!site.page("/ui/").await.contains("secret/"));
    assert_eq!(site.get("/v2/fixed/app/manifests/v1").await.status, 200, "nothing was changed");
}

#[tokio::test]
async fn hostile_content_is_shown_and_does_nothing() {
    let site = Site::start(ServerSpec::default()).await;
    let script = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let bidi = "a\u{202e}b\u{200b}c\u{0}";
    let labels: serde_json::Map<String, serde_json::Value> =
        (0..2000).map(|index| (format!("l{index}"), json!(script))).collect();
    let (config, manifest) = image_of(
        json!({
            "architecture": script, "os": {"not": "text"}, "created": "yesterday", "author": bidi,
            "config": {
                "User": script, "Labels": labels, "Env": [script, 7, null, bidi], "Cmd": script,
                "Entrypoint": [bidi, script], "ExposedPorts": {script: {}},
            },
            "history": [{"created_by": script}, {"created_by": "x".repeat(100_000)}, 7, {"created_by": {}}],
        }),
        json!({"a": script, "b": "javascript:alert(1)", "c": "https://ok.example/?q=<b>", "d": "https://x@evil.example",
               "e": "https://good.example/path", script: bidi}),
    );
    site.blob("hostile", &config).await;
    site.push("hostile", "image", &manifest).await;
    let page = site.page("/ui/hostile:image").await;
    assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{page}");
    assert!(!page.contains('\u{202e}') && !page.contains('\u{200b}') && !page.contains('\0'));
    assert!(page.contains("U+202E") && page.contains("U+200B"));
    let links: Vec<&str> = page.split("class=\"external\" href=\"").skip(1).collect();
    assert_eq!(links.len(), 1, "{links:?}");
    assert!(links[0].starts_with("https://good.example/path\" rel=\"noopener nofollow ugc\""));
    assert!(page.len() < 2_000_000, "{}", page.len());

    let empty = site.blob("hostile", b"{}").await;
    let html = format!("<html><body onload=alert(1)>{script}</body></html>").into_bytes();
    let file = site.blob("hostile", &html).await;
    let content = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": "text/html",
        "config": {"mediaType": media::EMPTY, "digest": empty, "size": 2},
        "layers": [{"mediaType": "text/html", "digest": file, "size": html.len(),
                    "annotations": {"org.opencontainers.image.title": format!("../../{script}{bidi}")}}],
    });
    site.push("hostile", "file", &Manifest::compact(media::MANIFEST, &content)).await;
    let page = site.page("/ui/hostile:file").await;
    assert!(!page.contains("<script>alert"), "{page}");
    let download = site.get(&format!("/ui/hostile/-/blob/{file}")).await;
    assert_eq!(download.status, 200);
    assert_eq!(download.header("Content-Disposition"), Some("attachment"));
    assert_eq!(download.header("Content-Type"), Some("application/octet-stream"));
    assert!(download.header("Content-Security-Policy").unwrap().starts_with("sandbox"));

    // A config that is no JSON, is nested deeply, or is huge.
    for (tag, config) in [
        ("text", b"not json".to_vec()),
        ("deep", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes()),
        ("huge", vec![b' '; 2 << 20]),
    ] {
        let content = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "layers": [],
            "config": {"mediaType": media::CONFIG, "digest": sha256(&config), "size": config.len()},
        });
        site.blob("hostile", &config).await;
        site.push("hostile", tag, &Manifest::compact(media::MANIFEST, &content)).await;
        site.page(&format!("/ui/hostile:{tag}")).await;
    }
    for page in ["manifests", "history/image", "lifecycle"] {
        site.page(&format!("/ui/hostile/-/{page}")).await;
    }
}

#[tokio::test]
async fn hostile_addresses_are_pages_of_errors() {
    let site = Site::start(ServerSpec::default()).await;
    site.push_image("app", "v1", 1).await;
    let script = "%3Cscript%3Ealert(1)%3C/script%3E";
    for (target, status) in [
        (format!("/ui/{script}"), 404),
        ("/ui/none".to_owned(), 404),
        (format!("/ui/-/search?q={script}"), 200),
        (format!("/ui/app?q={script}&order={script}&from={script}&after={script}"), 200),
        (format!("/ui/?in={script}&after={script}"), 200),
        (format!("/ui/app:v1?platform={script}&package={script}&done={script}"), 200),
        ("/ui/app/-/manifests?after=%ff%00".to_owned(), 200),
        ("/ui/app/-/history/v1?after=x".to_owned(), 400),
        ("/ui/app?from=18446744073709551615".to_owned(), 200),
        (format!("/ui/{}", "a/".repeat(1200)), 414),
        ("/ui/app/-/delete".to_owned(), 400),
    ] {
        let response = site.get(&target).await;
        assert_eq!(response.status, status, "{target}\n{response}");
        check_headers(&response);
        assert!(!text(&response).contains("<script>alert"), "{target}");
    }
    let posted = site.send(Request::new("POST", "/ui/app").body("")).await;
    assert_eq!((posted.status, posted.header("Allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn what_is_attached_is_present_and_never_verified() {
    let site = Site::start(ServerSpec::default()).await;
    let subject = Image::plain(1);
    site.push_image("app", "v1", 1).await;
    let empty = site.blob("app", b"{}").await;
    let sbom = json!({"spdxVersion": "SPDX-2.3", "packages": [
        {"name": "openssl", "versionInfo": "3.0.15", "licenseConcluded": "Apache-2.0"}, {"name": "zlib"}]});
    let sbom = sbom.to_string().into_bytes();
    let layer = site.blob("app", &sbom).await;
    let content = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": "application/spdx+json",
        "config": {"mediaType": media::EMPTY, "digest": empty, "size": 2},
        "layers": [{"mediaType": "application/spdx+json", "digest": layer, "size": sbom.len()}],
        "subject": subject.manifest.descriptor(),
    });
    let referrer = Manifest::compact(media::MANIFEST, &content);
    let digest = site.push("app", &referrer.digest(), &referrer).await;
    let subject = subject.manifest.digest();
    site.push_image("app", &format!("{}.sig", subject.replace(':', "-")), 5).await;
    let page = site.page(&format!("/ui/app/-/referrers/{subject}?tag=v1")).await;
    assert!(
        page.contains("SBOM") && page.contains("signature") && page.contains("present"),
        "{page}"
    );
    assert!(page.contains("by the tag"), "{page}");
    assert!(!page.to_lowercase().contains("verified signature"), "{page}");
    let image = site.page("/ui/app:v1").await;
    assert!(image.contains("SBOM") && image.contains("verifies no signatures"), "{image}");
    let packages = site.page(&format!("/ui/app@{digest}?package=ssl")).await;
    assert!(packages.contains("openssl") && !packages.contains("zlib"), "{packages}");
}

/// Pushes a document that is attached to something, and gives the address of its page.
async fn attach(site: &Site, artifact_type: &str, document: &[u8]) -> String {
    let empty = site.blob("app", b"{}").await;
    let layer = site.blob("app", document).await;
    let content = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": artifact_type,
        "config": {"mediaType": media::EMPTY, "digest": empty, "size": 2},
        "layers": [{"mediaType": artifact_type, "digest": layer, "size": document.len()}],
        "subject": Image::plain(1).manifest.descriptor(),
    });
    let referrer = Manifest::compact(media::MANIFEST, &content);
    format!("/ui/app@{}", site.push("app", &referrer.digest(), &referrer).await)
}

#[tokio::test]
async fn scan_reports_and_vex_documents_are_tables() {
    let site = Site::start(ServerSpec::default()).await;
    site.push_image("app", "v1", 1).await;
    let script = "<script>alert(1)</script>";
    let sarif = json!({"version": "2.1.0", "runs": [{
        "tool": {"driver": {"name": script, "rules": [
            {"id": "CVE-2026-1", "helpUri": "javascript:alert(1)", "properties": {"security-severity": "9.8"}},
            {"id": "CVE-2026-2", "helpUri": "https://avd.example/2", "properties": {"security-severity": "3.1"}}]}},
        "results": [
            {"ruleId": "CVE-2026-2", "message": {"text": "Package: zlib\nInstalled Version: 1.2\nFixed Version: 1.3"}},
            {"ruleId": "CVE-2026-1", "message": {"text": format!("Package: {script}\u{202e}\nInstalled Version: 3")}}],
    }]});
    let address = attach(&site, "application/sarif+json", sarif.to_string().as_bytes()).await;
    let page = site.page(&address).await;
    assert!(
        page.contains("1 critical") && page.contains("1 low") && page.contains("1.3"),
        "{page}"
    );
    assert!(page.find("CVE-2026-1") < page.find("CVE-2026-2"), "the worst first: {page}");
    assert!(page.contains("href=\"https://avd.example/2\"") && page.contains("not verified"));
    assert!(page.contains("U+202E") && !page.contains("<script>alert"), "{page}");
    let found = site.page(&format!("{address}?find=zlib")).await;
    assert!(found.contains("CVE-2026-2") && !found.contains("CVE-2026-1"), "{found}");
    let none = site.page(&format!("{address}?find=%3Cscript%3Ealert(1)%3C/script%3Ex")).await;
    assert!(none.contains("Nothing matches."), "{none}");

    let vex = json!({"@context": "https://openvex.dev/ns/v0.2.0", "author": "Web team", "statements": [
        {"vulnerability": {"name": "CVE-2026-1"}, "products": [{"@id": "pkg:oci/app"}], "status": "not_affected",
         "justification": "vulnerable_code_not_in_execute_path"},
        {"vulnerability": "CVE-2026-3", "products": ["pkg:oci/app"], "status": "affected"}]});
    let address = attach(&site, "application/vnd.openvex+json", vex.to_string().as_bytes()).await;
    let page = site.page(&address).await;
    for wanted in ["1 not affected", "1 affected", "pkg:oci/", "Web team", "not_in_execute_path"] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }

    // What is no report, of no known format, or large.
    let many = vec![json!({"ruleId": "x", "message": {"text": "y".repeat(400)}}); 20_100];
    let many = json!({"runs": [{"results": many}]}).to_string().into_bytes();
    for (document, shown) in [
        (&b"not json"[..], "of a format that is not shown"),
        (b"[]", "of a format that is not shown"),
        (b"{\"runs\": []}", "It names no finding."),
        (&many, "100 others are not read."),
        (&vec![b' '; 17 << 20], "too large to be shown"),
    ] {
        let address = attach(&site, "application/sarif+json", document).await;
        let page = site.page(&address).await;
        assert!(page.contains(shown), "{shown}: {page}");
        assert!(page.len() < 1_000_000 && page.contains("Download"), "{}", page.len());
    }
}

#[tokio::test]
async fn an_image_says_what_others_need_too() {
    let site = Site::start(ServerSpec::default().authorizer(Prefixes)).await;
    let (base, own, other) = (vec![b'b'; 4096], vec![b'o'; 2048], vec![b'x'; 1024]);
    let push = async |name: &str, tag: &str, layers: &[&Vec<u8>]| {
        let config = json!({"tag": tag}).to_string().into_bytes();
        let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()});
        let content = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "config": descriptor(media::CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor("application/octet-stream", layer)).collect::<Vec<_>>(),
        });
        let manifest = Manifest::compact(media::MANIFEST, &content);
        for bytes in layers.iter().copied().chain([&config]) {
            let target = format!("/v2/{name}/blobs/uploads/?digest={}", sha256(bytes));
            let request = Request::new("POST", target).header("X-Seed", "1").body(bytes.clone());
            assert_eq!(site.send(request).await.status, 201);
        }
        let request = Request::new("PUT", format!("/v2/{name}/manifests/{tag}"))
            .header("X-Seed", "1")
            .header("Content-Type", media::MANIFEST)
            .body(manifest.bytes.clone());
        assert_eq!(site.send(request).await.status, 201);
        (manifest.bytes.len() + config.len()) as u64
    };
    let overhead = push("open/app", "v1", &[&base, &own]).await;
    let shown = async |target: &str| {
        let page = site.page(target).await;
        let card = page.split("id=\"storage\"").nth(1).unwrap_or_else(|| panic!("{page}"));
        card.split("</section>").next().unwrap().to_owned()
    };
    let bytes = |count: u64| {
        format!("title=\"{}", count.to_string().split_at(count.to_string().len() - 3).0)
    };
    let card = shown("/ui/open/app:v1").await;
    let all = overhead + 4096 + 2048;
    assert_eq!(card.matches(&bytes(all)).count(), 2, "all of it is needed by nothing else: {card}");
    push("open/app", "v2", &[&base, &other]).await;
    push("secret/app", "v1", &[&own]).await;
    let card = shown("/ui/open/app:v1").await;
    assert!(card.contains(">4.0 KiB<"), "the base is shared: {card}");
    assert!(!card.contains("secret") && !card.contains("Repositories with"), "{card}");
    push("open/web", "v1", &[&own]).await;
    let card = shown("/ui/open/app:v1").await;
    assert!(card.contains("/ui/open/web\"") && card.contains(">2.0 KiB<"), "{card}");
    assert!(!card.contains("secret"), "{card}");
    let usage = site.page("/ui/open/app/-/usage?count=yes").await;
    assert!(usage.contains("/ui/open/web\"") && usage.contains("Logical"), "{usage}");
    assert!(!usage.contains("secret"), "{usage}");

    // In a bucket it is looked for when it is asked for.
    let bucket = Site::start(ServerSpec::default().store(StoreKind::Bucket)).await;
    bucket.push_image("app", "v1", 1).await;
    let page = bucket.page("/ui/app:v1").await;
    assert!(page.contains("/ui/app:v1?sharing=yes") && !page.contains("Only this"), "{page}");
    let page = bucket.page("/ui/app:v1?sharing=yes").await;
    assert!(page.contains("Only this"), "{page}");
}

/// An archive of one file, as gzip that is not compressed.
fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = vec![0; 512];
    tar[..name.len()].copy_from_slice(name.as_bytes());
    tar[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    tar[156] = b'0';
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let crc = tar
        .iter()
        .fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)));
    let length = u16::try_from(tar.len()).unwrap();
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    packed.extend_from_slice(&length.to_le_bytes());
    packed.extend_from_slice(&(!length).to_le_bytes());
    packed.extend_from_slice(&tar);
    packed.extend_from_slice(&(!crc).to_le_bytes());
    packed.extend_from_slice(&u32::from(length).to_le_bytes());
    packed
}

#[tokio::test]
async fn a_chart_shows_its_readme_as_text() {
    let site = Site::start(ServerSpec::default()).await;
    let config = site.blob("chart", br#"{"name": "shop", "version": "1.0.0"}"#).await;
    for (tag, archive, shown) in [
        ("good", archive_of("shop/README.md", b"# Shop\r\n<script>alert(1)</script>"), true),
        ("none", archive_of("shop/charts/a/README.md", b"# Other"), false),
        ("bad", b"no archive".to_vec(), false),
        ("huge", vec![0; 5 << 20], false),
    ] {
        let layer = site.blob("chart", &archive).await;
        let content = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": config, "size": 36},
            "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                        "digest": layer, "size": archive.len()}],
        });
        site.push("chart", tag, &Manifest::compact(media::MANIFEST, &content)).await;
        let page = site.page(&format!("/ui/chart:{tag}")).await;
        assert_eq!(page.contains("README</h2>"), shown, "{tag}: {page}");
        assert!(page.contains("shop") && !page.contains("<script>alert"), "{page}");
        assert!(!shown || page.contains("# Shop\n&lt;script&gt;"), "{page}");
    }
}

#[tokio::test]
async fn a_list_of_tags_says_what_is_attached() {
    let site = Site::start(ServerSpec::default()).await;
    let digest = site.push_image("app", "v1", 1).await;
    let other = site.push_image("app", "v2", 2).await;
    let page = site.page("/ui/app").await;
    assert!(!page.contains(">SBOM<") && !page.contains(">signature<"), "{page}");
    site.push_image("app", &format!("{}.sig", other.replace(':', "-")), 3).await;
    let empty = site.blob("app", b"{}").await;
    let content = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": "application/spdx+json",
        "config": {"mediaType": media::EMPTY, "digest": empty, "size": 2}, "layers": [],
        "subject": {"mediaType": media::MANIFEST, "digest": digest, "size": 1},
    });
    let referrer = Manifest::compact(media::MANIFEST, &content);
    site.push("app", &referrer.digest(), &referrer).await;
    let page = site.page("/ui/app").await;
    let row = |tag: &str| {
        let rest = page.split(&format!("/ui/app:{tag}\"")).nth(1).unwrap();
        rest.split("</tr>").next().unwrap().to_owned()
    };
    assert!(row("v1").contains(">SBOM<") && !row("v1").contains(">signature<"), "{page}");
    assert!(row("v2").contains(">signature<") && !row("v2").contains(">SBOM<"), "{page}");
    assert!(row("v1").contains("present, not verified"), "{page}");
}

#[tokio::test]
async fn recent_pushes_are_those_that_the_viewer_may_see() {
    let site = Site::start(ServerSpec::default().authorizer(Prefixes)).await;
    seed(&site, "secret/app", "v1").await;
    seed(&site, "open/app", "v1").await;
    let page = site.page("/ui/-/activity").await;
    assert!(page.contains("/ui/open/app:v1") && !page.contains("secret"), "{page}");
}

#[tokio::test]
async fn sizes_that_were_counted_are_in_the_list_and_gc_on_the_page_of_usage() {
    let site = Site::start(ServerSpec::default()).await;
    site.push_image("app", "v1", 1).await;
    assert!(!site.page("/ui/").await.contains(">Size<"));
    let usage = site.page("/ui/-/usage?count=yes").await;
    assert!(usage.contains("Garbage collection") && usage.contains("No run has ended yet."));
    let home = site.page("/ui/").await;
    assert!(home.contains(">Size<") && home.contains("counted "), "{home}");
}
