//! The page of mirrors: the state of an upstream, and what is stored of it.

use jreg_testkit::StoreKind;
use jreg_testkit::upstream::{ScriptedUpstream, UpstreamFault, UpstreamRule};

use super::{add_image, get, mirror, pull};

const PATH: &str = "/v2/docker.io/library/app";

#[tokio::test]
async fn the_page_of_mirrors_says_what_is_stored_and_that_an_upstream_fails() {
    let upstream = ScriptedUpstream::start().await;
    let image = add_image(&upstream, 1);
    let server = mirror(&upstream, StoreKind::Folder, "fresh = \"0s\"\nkeep = \"30d\"").await;
    let client = server.client();
    let page = async |target: &str| {
        let response = get(&client, target).await;
        assert_eq!(response.status, 200, "{response}");
        String::from_utf8(response.body.to_vec()).unwrap()
    };
    let before = page("/ui/-/mirrors").await;
    for wanted in
        ["docker.io", "not used yet", "none was pulled yet", "1 month after the last pull"]
    {
        assert!(before.contains(wanted), "{wanted}: {before}");
    }
    pull(&client, PATH, "", "v1", &image).await;
    let after = page("/ui/-/mirrors?count=yes").await;
    assert!(after.contains("working") && after.contains("Size") && after.contains("Blobs"));
    assert!(after.contains("/ui/?in=docker.io\""), "{after}");
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(503)));
    get(&client, &format!("{PATH}/manifests/v2")).await;
    let failing = page("/ui/-/mirrors").await;
    assert!(failing.contains("failures in a row, the last:"), "{failing}");
    assert!(page("/ui/-/activity").await.contains("/ui/-/mirrors"), "a tab leads there");
}
