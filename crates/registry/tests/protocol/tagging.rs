//! Writers of tags beside each other.

use std::time::Duration;

use crate::bench::{Bench, digest, push_of};

const IMAGE: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// Several for each of some hundred locks.
const OTHERS: usize = 200;
/// Reached only by a test that fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Writers of one tag in a process take turns; whoever writes another does not wait for them, or a
/// busy instance would do no more than a few tags at a time.
#[tokio::test(start_paused = true)]
async fn fixed_writers_of_other_tags_do_not_wait() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let mut slow =
        bench.gate.hold(|call| call.operation == "put" && call.key.ends_with("_tags/slow"));
    let first = tokio::spawn({
        let push = push_of("slow", IMAGE);
        async move { repository.manifest_put(push).await }
    });
    slow.reached(1).await;
    for number in 0..OTHERS {
        let tag = format!("v{number}");
        let pushed = tokio::time::timeout(WAIT_MAX, bench.put_manifest("a", &tag, IMAGE)).await;
        pushed.unwrap_or_else(|_| panic!("{tag} waits for another tag")).unwrap();
    }
    slow.release();
    let pushed = first.await.unwrap().unwrap();
    assert_eq!(pushed.digest, digest(IMAGE.as_bytes()));
}
