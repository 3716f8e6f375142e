//! Request budgets of the web UI, on a bucket with 100,000 tags and 10,000 repositories.

use std::sync::Arc;

use jreg_storage::testing::ManualClock;
use jreg_testkit::{Image, Request, ServerSpec, StoreKind, TestServer};

use super::Home;

const TAGS: usize = 100_000;
const REPOSITORIES: usize = 10_000;

/// A server on a large bucket.
struct LargeBucket {
    home: Home,
    server: TestServer,
    digest: String,
}

impl LargeBucket {
    async fn start() -> Self {
        let home = Home::bucket().await;
        let Home::Bucket(bucket) = &home else { unreachable!("it is a bucket") };
        let mut spec = ServerSpec::default().store(StoreKind::Given(bucket.store()));
        spec.settings.gc_interval = None;
        spec.settings.s3_hedge_reads = false;
        // Lists in memory stay as new as they are, however long the machine takes.
        spec.clock = Some(Arc::new(ManualClock::default()));
        let server = TestServer::start(spec).await;
        let image = Image::plain(1);
        let digest = image.manifest.digest();
        let large = Self { home, server, digest };
        for blob in &image.blobs {
            let target = format!("/v2/big/blobs/uploads/?digest={}", blob.digest());
            large.send(Request::new("POST", target).body(blob.bytes.clone()), 201).await;
        }
        for tag in ["v", "w"] {
            let request = Request::new("PUT", format!("/v2/big/manifests/{tag}"));
            let request = request.header("Content-Type", &image.manifest.media_type);
            large.send(request.body(image.manifest.bytes.clone()), 201).await;
        }
        let Home::Bucket(bucket) = &large.home else { unreachable!("it is a bucket") };
        let record = bucket.object("repositories/big/_tags/v").unwrap().bytes;
        for number in 0..TAGS - 2 {
            bucket.insert(&format!("repositories/big/_tags/t{number:06}"), record.clone());
        }
        let known = bucket.object("catalog/big").unwrap().bytes;
        for number in 0..REPOSITORIES {
            bucket.insert(&format!("catalog/team{:02}.app{number:05}", number % 40), known.clone());
        }
        large.home.take();
        large
    }

    async fn send(&self, request: Request, status: u16) -> String {
        let response = self.server.client().send_unchecked(&request).await.unwrap();
        assert_eq!(response.status, status, "{response}");
        String::from_utf8(response.body.to_vec()).unwrap()
    }

    /// A page, and how many listings and other requests it made.
    async fn page(&self, target: &str) -> (String, usize, usize) {
        self.home.take();
        let html = self.send(Request::new("GET", target).header("Connection", "close"), 200).await;
        let requests = self.home.take();
        let is_list = |request: &&String| request.to_lowercase().starts_with("list");
        let lists = requests.iter().filter(is_list).count();
        (html, lists, requests.len() - lists)
    }
}

#[tokio::test]
async fn pages_of_a_large_bucket_cost_a_bounded_number_of_requests() {
    let large = Box::pin(LargeBucket::start()).await;
    let digest = large.digest.clone();
    for (target, shown, lists_max, others_max) in [
        // By name: one listing, and a read of each tag.
        ("/ui/big".to_owned(), "t000049", 1, 50),
        ("/ui/big?after=t050000".to_owned(), "t050050", 1, 50),
        // The list of all tags in memory, once.
        ("/ui/big?order=newest".to_owned(), "100000 tags", 101, 51),
        ("/ui/big?q=t0777".to_owned(), "t077700", 0, 50),
        ("/ui/big?order=version&from=1000".to_owned(), "100000 tags", 0, 50),
        ("/ui/".to_owned(), "team00", 1, 0),
        ("/ui/?in=team07".to_owned(), "app00007", 1, 0),
        ("/ui/?in=team07&details=yes".to_owned(), "app00007", 51, 0),
        ("/ui/-/search?q=ap09999".to_owned(), "app09999", 11, 0),
        ("/ui/-/search?q=team39/app".to_owned(), "refine", 0, 0),
        ("/ui/big:v".to_owned(), "docker pull", 3, 10),
        (format!("/ui/big@{digest}"), "docker pull", 3, 10),
        // The manifests of the repository, and the links of each blob.
        ("/ui/big:v?sharing=yes".to_owned(), "Only this", 7, 14),
        (format!("/ui/big/-/referrers/{digest}"), "Nothing is attached", 1, 4),
        (format!("/ui/big/-/kept/{digest}"), "jreg explain", 4, 2),
        ("/ui/big/-/lifecycle".to_owned(), "No entry", 0, 1),
        ("/ui/big/-/history/v".to_owned(), "Now", 1, 3),
        ("/ui/big/-/manifests".to_owned(), "sha256", 2, 8),
        ("/ui/big/-/deleted".to_owned(), "Nothing was deleted lately", 2, 1),
        ("/ui/big/-/usage".to_owned(), "Count now", 1, 1),
        // With what is attached: the tags of cosign, and the referrers of the one manifest.
        ("/ui/big?details=yes".to_owned(), "t000049", 3, 52),
        // What the last GC run did.
        ("/ui/-/activity".to_owned(), "Uploads", 4, 1),
        ("/ui/-/usage".to_owned(), "Count now", 0, 1),
        ("/ui/-/mirrors".to_owned(), "No registry is mirrored", 0, 0),
    ] {
        let (html, lists, others) = large.page(&target).await;
        assert!(html.contains(shown), "{target}\n{html}");
        let cost = format!("{target}: {lists} listings and {others} others");
        assert!(lists <= lists_max && others <= others_max, "{cost}");
    }
}
