//! The most store requests that one request of each endpoint causes, in the worst known scenario.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jreg_access::{
    AuthContext, AuthError, Authorizer, CredentialState, Principal, RefusedAccess, RequestInfo,
    Right,
};
use jreg_auth::DecisionReason;
use jreg_oci::{Endpoint, Tag};
use jreg_registry::{
    EXTRA_LIST_REQUESTS_MAX, LIST_KEYS_MAX, PROTECTING_RECORDS_MAX, PROTECTING_TAGS_MAX,
    REFERRERS_EXAMINED_MAX,
};
use jreg_storage::{PutMode, Store};
use jreg_testkit::{Image, Manifest, Request, Response, ServerSpec, StoreKind, TestServer};
use serde_json::json;

use super::{BLOB, Home, digest, manifest};

/// Authorization: everything below `hidden/` is hidden. In `kept`, tags with this prefix may not be
/// deleted.
#[derive(Debug)]
struct Hides;

#[async_trait]
impl Authorizer for Hides {
    async fn identify(
        &self,
        request_info: RequestInfo,
        _: &Right,
    ) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Principal::anonymous(), request_info))
    }

    fn grant(&self, _: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        match right {
            Right::See(name) | Right::Mount(name) if name.as_str().starts_with("hidden/") => {
                let access = RefusedAccess::new(CredentialState::No, right);
                Err(AuthError::Forbidden { access, reason: "it is hidden".to_owned() })
            }
            _ => Ok(DecisionReason::Open),
        }
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        tag: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        if self.depends_on_tag(auth, right) && tag.as_str().starts_with("kept") {
            let access = RefusedAccess::new(CredentialState::No, right);
            return Err(AuthError::Forbidden { access, reason: "the tag stays".to_owned() });
        }
        self.grant(auth, right)
    }

    fn depends_on_tag(&self, _: &AuthContext, right: &Right) -> bool {
        matches!(right, Right::Delete(name) if name.as_str() == "kept")
    }
}

/// A server whose store counts.
struct Counted {
    home: Home,
    server: TestServer,
}

/// Maximum cost of each endpoint, for any request.
///
/// Each row has the worst known scenario.
struct Worst {
    endpoint: &'static str,
    request: fn(&Content) -> Request,
    /// Maximum number of store requests.
    at_most: usize,
    why: &'static str,
}

/// What the rows ask for.
struct Content {
    blob: String,
    /// One that is large enough for many ranges that are far from each other.
    scattered: String,
    image: String,
    upload: String,
    /// An upload that is cancelled.
    cancelled: String,
    /// A manifest of `kept` that no tag protects.
    unprotected: String,
    /// A blob of `kept` that no tag protects.
    unprotected_blob: String,
    /// A manifest of `past` that `moved` does not point to.
    earlier: String,
    /// A manifest of `past` that was deleted with [`PAST_TAGS`] tags.
    deleted: String,
}

/// Number of keys that every listing has to skip: tombstones in a bucket, records elsewhere.
const IN_THE_WAY: usize = 12_000;
/// Number of referrers of a subject. None has the requested type.
const REFERRERS: usize = 400;
/// Number of tags that point to the deleted manifest.
const TAGS: usize = 8;
/// Number of tags of `kept` that may not be deleted, each with a manifest of its own.
const PROTECTING: usize = 2;
/// Number of references of these manifests.
const BELOW: usize = PROTECTING_RECORDS_MAX - 2 * PROTECTING;
/// Number of changes of a tag of `past`.
const CHANGES: usize = 30;
/// Number of tags of a manifest of `past` that was deleted.
const PAST_TAGS: usize = 2;
/// Cost of finding out whether a tag protects content from a delete by digest.
const PROTECTION: usize = PROTECTION_LISTS + 2 * PROTECTING + 2 * BELOW;
/// `list_requests_max(PROTECTING_TAGS_MAX)`
const PROTECTION_LISTS: usize =
    PROTECTING_TAGS_MAX.div_ceil(LIST_KEYS_MAX) + EXTRA_LIST_REQUESTS_MAX;
const TOMBSTONE: &[u8] = b"\0deleted0123456789abcdef";

/// A POST of JSON.
fn send_json(target: String, body: serde_json::Value) -> Request {
    Request::new("POST", target).header("Content-Type", "application/json").body(body.to_string())
}

fn read(method: &'static str, target: String) -> Request {
    Request::new(method, target)
}

/// Requests that count what the repository `kept` holds, with the open uploads of all.
const USAGE_OF_ONE: usize = 60;

const WORST: &[Worst] = &[
    Worst {
        endpoint: "ping",
        request: |_| read("GET", "/v2/".into()),
        at_most: 0,
        why: "nothing is read",
    },
    Worst {
        endpoint: "catalog",
        request: |_| read("GET", "/v2/_catalog?n=1".into()),
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX,
        why: "list requests of one page",
    },
    Worst {
        endpoint: "usage",
        request: |_| read("GET", "/v2/_jreg/usage?n=1&last=a".into()),
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX + USAGE_OF_ONE,
        why: "list requests of a page of the catalog; uploads, and a read of each session; manifests twice, \
              copies; a read of each manifest and copy, and of each blob's link",
    },
    Worst {
        endpoint: "tag_list",
        request: |_| read("GET", "/v2/a/tags/list?n=1".into()),
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX,
        why: "list requests of one page",
    },
    Worst {
        endpoint: "referrers",
        request: |content| {
            read("GET", format!("/v2/a/referrers/{}?n=1&artifactType=none/such", content.image))
        },
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX + REFERRERS_EXAMINED_MAX,
        why: "list requests of one page, the entries that it looks at",
    },
    Worst {
        endpoint: "extensions",
        request: |_| read("GET", "/v2/_oci/ext/discover".into()),
        at_most: 0,
        why: "nothing is read",
    },
    Worst {
        endpoint: "repository_extensions",
        request: |_| read("GET", "/v2/past/_oci/ext/discover".into()),
        at_most: 0,
        why: "nothing is read",
    },
    Worst {
        endpoint: "tag_history",
        request: |_| read("GET", "/v2/past/_jreg/tags/moved/history?n=20".into()),
        at_most: 1 + 1 + 19,
        why: "tag, list request, entries but the current one (EXTRA_LIST_REQUESTS_MAX more if the \
              store's pages are short)",
    },
    Worst {
        endpoint: "oci_tag_history",
        request: |content| {
            let digest = jreg_testkit::sha256("of no entry");
            let earlier = &content.earlier;
            assert_ne!(*earlier, digest);
            read("GET", format!("/v2/past/_oci/tag-history/moved?n=1&digest={digest}"))
        },
        at_most: 1 + 1 + CHANGES,
        why: "tag, list request; with a digest every entry (page-items-max of them at the most)",
    },
    Worst {
        endpoint: "tag_restore",
        request: |content| {
            let body = json!({ "digest": content.earlier });
            send_json("/v2/past/_jreg/tags/moved/restore".into(), body)
        },
        at_most: 1 + 4 + 3,
        why: "manifest; manifest, tag, catalog, hint; manifest, what is replaced; tag",
    },
    Worst {
        endpoint: "deleted_manifests",
        request: |_| read("GET", "/v2/past/_jreg/deleted?n=1".into()),
        at_most: 1 + 3,
        why: "list request; is it there again, was it purged, copy",
    },
    Worst {
        endpoint: "manifest_restore",
        request: |content| {
            let target = format!("/v2/past/_jreg/deleted/{}/restore", content.deleted);
            send_json(target, json!({ "tags": true }))
        },
        at_most: 2 + 5 + 9 * PAST_TAGS + 1,
        why: "list request, copy; manifest (three, as its tombstone is there), catalog; nine as a \
              restore of each tag; was it purged",
    },
    Worst {
        endpoint: "blob_get",
        request: |content| {
            // Each gap is too large to be read, and larger than the one before.
            let starts = (0..290).map(|n| n * 66_000 + n * (n - 1) / 2);
            let far: Vec<_> = starts.map(|start| format!("{start}-{start}")).collect();
            read("GET", format!("/v2/a/blobs/{}", content.scattered))
                .header("Range", format!("bytes={}", far.join(",")))
        },
        at_most: 1 + 256,
        why: "link; ranges that are far from each other, 256 reads at the most",
    },
    Worst {
        endpoint: "blob_head",
        request: |content| read("HEAD", format!("/v2/a/blobs/{}", content.blob)),
        at_most: 1,
        why: "link (and a swap, if it is old)",
    },
    Worst {
        endpoint: "manifest_get",
        request: |_| read("GET", "/v2/a/manifests/v1".into()),
        at_most: 2,
        why: "tag, manifest",
    },
    Worst {
        endpoint: "manifest_head",
        request: |_| read("HEAD", "/v2/a/manifests/v1".into()),
        at_most: 2,
        why: "tag, manifest (and swaps, if they are old)",
    },
    Worst {
        endpoint: "upload_start",
        request: |_| {
            let absent = jreg_testkit::sha256("held elsewhere");
            Request::new("POST", format!("/v2/new/blobs/uploads/?mount={absent}")).body("")
        },
        at_most: 1 + 3 * 16,
        why: "a list request, three for each of 16 candidates (mount_candidates_max)",
    },
    Worst {
        endpoint: "upload_status",
        request: |content| read("GET", content.upload.clone()),
        at_most: 1,
        why: "session",
    },
    Worst {
        endpoint: "upload_patch",
        request: |content| Request::new("PATCH", content.upload.clone()).body("world"),
        at_most: 10,
        why: "at an instance that does not know the auth: bytes, session; auth, swap, both bytes \
              read, bytes, swap, both bytes away",
    },
    Worst {
        endpoint: "upload_put",
        request: |content| {
            let digest = jreg_testkit::sha256("helloworld");
            Request::new("PUT", format!("{}?digest={digest}", content.upload)).body("")
        },
        at_most: 8,
        why: "auth, bytes, swap, link, what is left away",
    },
    Worst {
        endpoint: "upload_cancel",
        request: |content| read("DELETE", content.cancelled.clone()),
        at_most: 4,
        why: "auth, swap, bytes away",
    },
    Worst {
        endpoint: "manifest_put",
        request: |_| {
            let image = Image::plain(1);
            Request::new("PUT", "/v2/a/manifests/again")
                .header("Content-Type", &image.manifest.media_type)
                .body(image.manifest.bytes)
        },
        at_most: 7 + 1 + 1,
        why: "a link for each blob, manifest, tag, catalog, hint; manifest; tag (one for each layer, two \
              where a digest may be a blob or a manifest: at the most 2,048 lookups, LOOKUPS_MAX)",
    },
    Worst {
        endpoint: "manifest_delete",
        request: |content| read("DELETE", format!("/v2/a/manifests/{}", content.image)),
        at_most: 4 + EXTRA_LIST_REQUESTS_MAX + 3 * (TAGS + 2),
        why: "manifest, hints, three for each tag, tombstones",
    },
    Worst {
        endpoint: "blob_delete",
        request: |content| read("DELETE", format!("/v2/a/blobs/{}", content.blob)),
        at_most: 2,
        why: "link, tombstone",
    },
    Worst {
        endpoint: "manifest_delete",
        request: |content| read("DELETE", format!("/v2/kept/manifests/{}", content.unprotected)),
        at_most: PROTECTION + 4 + EXTRA_LIST_REQUESTS_MAX + 3 * (1 + 2),
        why: "under rules on tags: list requests of all tags; each tag that may not be deleted, its \
              manifest, and two for each manifest below; and the delete",
    },
    Worst {
        endpoint: "blob_delete",
        request: |content| read("DELETE", format!("/v2/kept/blobs/{}", content.unprotected_blob)),
        at_most: PROTECTION + 2,
        why: "under rules on tags: the same, and the delete",
    },
];

impl Counted {
    async fn start(home: Home) -> Self {
        let store: Arc<dyn Store> = match &home {
            Home::Memory(store) => store.clone(),
            Home::Bucket(server) => server.store(),
        };
        let mut spec = ServerSpec::default().authorizer(Hides).store(StoreKind::Given(store));
        spec.settings.gc_interval = None;
        // No time-dependent options.
        spec.settings.s3_hedge_reads = false;
        Self { home, server: TestServer::start(spec).await }
    }

    async fn send(&self, request: Request) -> Response {
        self.server.client().send_unchecked(&request).await.unwrap()
    }

    /// Puts an object into the store below all decorators.
    async fn insert(&self, key: &str, bytes: impl Into<Bytes>) {
        match &self.home {
            Home::Memory(store) => {
                let key = key.parse().unwrap();
                store.put(&key, bytes.into(), PutMode::Overwrite).await.unwrap();
            }
            Home::Bucket(server) => server.insert(key, bytes),
        }
    }

    async fn must(&self, request: Request, status: u16) -> Response {
        let outcome = self.send(request).await;
        assert_eq!(outcome.status, status, "{outcome}");
        outcome
    }

    async fn push(&self, bytes: &Bytes) -> String {
        self.push_to("a", bytes).await
    }

    async fn push_to(&self, name: &str, bytes: &Bytes) -> String {
        let digest = jreg_testkit::sha256(bytes);
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.must(Request::new("POST", target).body(bytes.clone()), 201).await;
        digest
    }

    /// Repositories, tags and referrers with the maximum number of keys to skip.
    async fn fill(&self) -> Content {
        let image = Image::plain(1);
        for blob in &image.blobs {
            self.push(&blob.bytes).await;
        }
        let put = |tag: String, manifest: &Manifest| {
            Request::new("PUT", format!("/v2/a/manifests/{tag}"))
                .header("Content-Type", &manifest.media_type)
                .body(manifest.bytes.clone())
        };
        self.must(put("v1".into(), &image.manifest), 201).await;
        for tag in 0..TAGS {
            self.must(put(format!("w{tag}"), &image.manifest), 201).await;
        }
        let subject = image.manifest.digest();
        for seed in (10..).take(REFERRERS) {
            let referrer = Image::referrer(seed, &image.manifest, "application/x");
            self.push(&referrer.blobs[0].bytes).await;
            self.must(put(referrer.manifest.digest(), &referrer.manifest), 201).await;
        }
        self.obstruct(&subject).await;
        let blob = self.push(&Bytes::from(vec![7; 500_000])).await;
        let scattered = self.push(&Bytes::from(vec![8; 20_000_000])).await;
        let (upload, cancelled) = (self.begin().await, self.begin().await);
        let (unprotected, unprotected_blob) = self.protect().await;
        let (earlier, deleted) = self.pass().await;
        Content {
            blob,
            scattered,
            image: subject,
            upload,
            cancelled,
            unprotected,
            unprotected_blob,
            earlier,
            deleted,
        }
    }

    /// Fills `past` with a tag that moves between two manifests, and a deleted manifest; returns the
    /// manifest that the tag does not point to, and the deleted one.
    async fn pass(&self) -> (String, String) {
        let of = |number: usize| manifest("application/x", json!({ "number": number }));
        let put = |tag: &str, manifest: &Manifest| {
            Request::new("PUT", format!("/v2/past/manifests/{tag}"))
                .header("Content-Type", &manifest.media_type)
                .body(manifest.bytes.clone())
        };
        for number in 0..CHANGES {
            self.must(put("moved", &of(number % 2)), 201).await;
        }
        for number in 0..PAST_TAGS {
            self.must(put(&format!("past{number}"), &of(2)), 201).await;
        }
        let deleted = of(2).digest();
        let target = format!("/v2/past/manifests/{deleted}");
        self.must(Request::new("DELETE", target), 202).await;
        (of(CHANGES % 2).digest(), deleted)
    }

    /// Fills `kept` with the maximum that a delete by digest reads; returns the manifest and the
    /// blob to delete.
    async fn protect(&self) -> (String, String) {
        let put = |tag: &str, manifest: &Manifest| {
            Request::new("PUT", format!("/v2/kept/manifests/{tag}"))
                .header("Content-Type", &manifest.media_type)
                .body(manifest.bytes.clone())
        };
        let below: Vec<_> = (0..BELOW).map(|n| json!({ "number": n }).to_string()).collect();
        for bytes in &below {
            let (digest, nonce) = (digest(bytes.as_bytes()), "0".repeat(32));
            let header =
                json!({ "nonce": nonce, "mediaType": "application/x", "size": bytes.len() });
            let key = format!("repositories/kept/_manifests/sha256/{}", digest.hex());
            self.insert(&key, format!("{header}\n{bytes}")).await;
        }
        for (number, below) in below.chunks(BELOW / PROTECTING).enumerate() {
            let any: Vec<_> = below.iter().map(|bytes| digest(bytes.as_bytes())).collect();
            let kept = manifest("application/x", json!({ "any": any }));
            self.must(put(&format!("kept{number}"), &kept), 201).await;
        }
        let unprotected = manifest("application/x", json!({ "any": [] }));
        self.must(put("old", &unprotected), 201).await;
        let blob = self.push_to("kept", &Bytes::from_static(BLOB)).await;
        (unprotected.digest(), blob)
    }

    /// An unfinished upload of a few bytes.
    async fn begin(&self) -> String {
        let begun = self.must(Request::new("POST", "/v2/a/blobs/uploads/").body(""), 202).await;
        let (_, path) = begun.header("Location").unwrap().split_once("/v2/").unwrap();
        let upload = format!("/v2/{path}");
        self.must(Request::new("PATCH", upload.clone()).body("hello"), 202).await;
        upload
    }

    async fn obstruct(&self, subject: &str) {
        let (_, hex) = subject.split_once(':').unwrap();
        let elsewhere = jreg_testkit::sha256("held elsewhere");
        let (_, held) = elsewhere.split_once(':').unwrap();
        let links = format!("links/sha256/{}/{held}", held.get(..2).unwrap_or_default());
        let deleted = format!(r#"{{"nonce":"{}","v":1,"state":"deleted"}}"#, "0".repeat(32));
        for number in 0..IN_THE_WAY {
            let name = format!("hidden.r{number:06}");
            let mark = format!(r#"{{"nonce":"{number:032}"}}"#);
            self.insert(&format!("catalog/{name}"), mark).await;
            if matches!(self.home, Home::Bucket(_)) {
                let of = format!("repositories/a/_referrers/sha256/{hex}/sha256-");
                self.insert(&format!("repositories/a/_tags/p{number:06}"), TOMBSTONE).await;
                self.insert(&format!("repositories/kept/_tags/p{number:06}"), TOMBSTONE).await;
                self.insert(&format!("{of}{}{number:06}", "0".repeat(58)), TOMBSTONE).await;
            }
        }
        for number in 0..40 {
            self.insert(&format!("{links}/c{number:06}"), deleted.clone()).await;
        }
    }

    /// Follows every `Link` from the first page; returns the items and the number of pages.
    async fn follow(&self, first: &str, pointer: &str, at_most: usize) -> (Vec<String>, usize) {
        let (mut items, mut next) = (Vec::new(), Some(first.to_owned()));
        for pages in 0..10_000 {
            let Some(target) = next else { return (items, pages) };
            self.home.take();
            let page = self.must(Request::new("GET", &*target), 200).await;
            let requests = self.home.take().len();
            assert!(requests <= at_most, "{target}: {requests} requests");
            let of_page = page.json().pointer(pointer).unwrap().as_array().unwrap().clone();
            items.extend(of_page.iter().map(|item| item.as_str().unwrap_or("x").to_owned()));
            next = page.next_link();
        }
        panic!("no end of pages from {first}");
    }
}

/// However many keys are to be skipped, one request causes a bounded number of store requests.
/// Listings end early then, with a `Link`, and following it returns everything once.
#[tokio::test]
async fn worst_case_of_every_endpoint() {
    for home in [Home::memory(), Home::bucket().await] {
        let counted = Counted::start(home).await;
        let content = counted.fill().await;
        let mut wrong = Vec::new();
        let mut missing: Vec<_> = Endpoint::ALL.iter().map(|info| info.id).collect();
        let bounds = |id| WORST.iter().find(|row| row.endpoint == id).unwrap().at_most;

        let (found, pages) =
            counted.follow("/v2/_catalog?n=1", "/repositories", bounds("catalog")).await;
        assert_eq!(found, ["a", "kept", "past"], "nothing hidden, and what is not hidden once");
        assert!(pages > 2, "{pages}");
        let (tags, _) = counted.follow("/v2/a/tags/list?n=1", "/tags", bounds("tag_list")).await;
        let expected = ["v1", "w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"];
        assert_eq!(tags, expected);
        let list = format!("/v2/a/referrers/{}", content.image);
        let few = format!("{list}?n=50");
        let most = 50 + 1 + EXTRA_LIST_REQUESTS_MAX;
        let (referrers, _) = counted.follow(&few, "/manifests", most).await;
        assert_eq!(referrers.len(), REFERRERS);
        let filtered = format!("{list}?n=1&artifactType=none/such");
        let (none, _) = counted.follow(&filtered, "/manifests", bounds("referrers")).await;
        assert_eq!(none, [""; 0]);

        for Worst { endpoint, request, at_most, why } in WORST {
            missing.retain(|id| id != endpoint);
            counted.home.take();
            let outcome = counted.send(request(&content)).await;
            let calls = counted.home.take();
            assert!(outcome.status < 400, "{endpoint}: {outcome}{calls:#?}");
            if calls.len() > *at_most {
                wrong.push(format!("{endpoint}: more than {at_most} ({why}): {calls:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(missing, [""; 0], "endpoints without a row");
        counted.server.stop().await;
    }
}
