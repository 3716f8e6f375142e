//! What the reaper takes, and what it leaves.

use std::sync::Arc;

use bytes::Bytes;
use jreg_registry::{Error, ReaperReport, Registry, RegistryOptions, UploadChunk, UploadId};
use jreg_storage::testing::{Fault, GateStore};
use jreg_storage::{ErrorKind, Key, PutMode, Store};

use crate::bench::{Bench, MINUTE, PART, bytes, digest};

/// Past the age limit and the time a write may be in flight.
fn past_use() -> std::time::Duration {
    RegistryOptions::default().limits.upload_age_max + 21 * MINUTE
}

async fn begun(bench: &Bench, length: usize) -> UploadId {
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(bytes(length))).await.unwrap();
    id
}

#[tokio::test]
async fn unfinished_uploads_go_with_their_bytes_once_they_are_past_use() {
    let bench = Bench::new().await;
    begun(&bench, PART / 2).await;
    begun(&bench, PART * 2 + 1).await;
    let sessions = bench.keys("uploads/").await;
    assert_eq!(sessions.len(), 3, "two sessions and a tail: {sessions:?}");
    let upload = bench.multipart().await;

    bench.clock.advance(RegistryOptions::default().limits.upload_age_max + 19 * MINUTE);
    assert_eq!(bench.registry.reap_uploads().await.unwrap(), ReaperReport::default());
    assert_eq!(bench.keys("uploads/").await, sessions);

    bench.clock.advance(2 * MINUTE);
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 2, ended: 0, failed: 0 });
    assert_eq!(bench.keys("").await, bench.keys("jreg.json").await);
    assert!(bench.multipart_is_absent(&upload).await);
}

#[tokio::test]
async fn finished_uploads_leave_only_their_record() {
    let bench = Bench::new().await;
    let (content, repository) = (bytes(PART * 3), bench.repository("a"));
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
    repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    bench.clock.advance(past_use());
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 1, failed: 0 });
    assert_eq!(bench.keys("uploads/").await, []);
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn cancelled_upload_whose_bytes_could_not_be_removed_is_cleaned_up_later() {
    let bench = Bench::new().await;
    let id = begun(&bench, PART * 2).await;
    let upload = bench.multipart().await;
    let abort = |call: &jreg_storage::testing::Call| call.operation == "abort_multipart";
    bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(abort));
    bench.repository("a").upload_cancel(&id).await.unwrap_err();
    assert!(!bench.multipart_is_absent(&upload).await);

    bench.clock.advance(past_use());
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 1, failed: 0 });
    assert!(bench.multipart_is_absent(&upload).await);
    assert_eq!(bench.keys("uploads/").await, []);
}

#[tokio::test]
async fn session_is_cancelled_before_its_bytes_are_deleted_and_its_record_last() {
    let bench = Bench::new().await;
    let id = begun(&bench, PART * 3).await;
    bench.clock.advance(past_use());
    bench.calls.take();
    bench.registry.reap_uploads().await.unwrap();
    let writes = bench.writes();
    let session = format!("uploads/{id}");
    let at = |wanted: &str| writes.iter().position(|write| write.starts_with(wanted)).unwrap();
    assert_eq!(at(&format!("put {session}")), 0, "{writes:?}");
    assert!(at("abort_multipart blobs/") < at(&format!("delete {session}")), "{writes:?}");
}

#[tokio::test]
async fn what_fails_is_counted_and_tried_again() {
    let bench = Bench::new().await;
    begun(&bench, 1).await;
    begun(&bench, 1).await;
    bench.clock.advance(past_use());
    let removal = |call: &jreg_storage::testing::Call| call.operation == "delete";
    bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(removal));
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 1, ended: 0, failed: 1 });
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 1, failed: 0 });
    assert_eq!(bench.keys("blobs/").await, []);
}

#[tokio::test]
async fn what_is_not_understood_is_left_alone() {
    let bench = Bench::new().await;
    let id = begun(&bench, 1).await;
    let session: Key = format!("uploads/{id}").parse().unwrap();
    let stranger: Key = "uploads/README".parse().unwrap();
    bench.faults.put(&session, Bytes::from_static(b"{"), PutMode::Overwrite).await.unwrap();
    bench.faults.put(&stranger, Bytes::from_static(b"x"), PutMode::Create).await.unwrap();
    bench.clock.advance(past_use());
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 0, failed: 1 });
    assert_eq!(bench.keys("uploads/").await, [session, stranger]);
}

#[tokio::test]
async fn young_uploads_cost_one_page() {
    let bench = Bench::new().await;
    for _ in 0..5 {
        begun(&bench, 1).await;
    }
    bench.calls.take();
    bench.registry.reap_uploads().await.unwrap();
    let calls: Vec<_> = bench.calls.take().into_iter().map(|call| call.operation).collect();
    assert_eq!(calls, ["get", "list"], "the mark of the store, and its uploads");
}

/// Its link may still be in flight, and sweeps must see until then that it references bytes.
#[tokio::test]
async fn upload_that_was_finished_at_the_last_moment_keeps_its_record_for_a_while() {
    let bench = Bench::new().await;
    let (content, repository) = (bytes(PART * 3), bench.repository("a"));
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
    bench.clock.advance(RegistryOptions::default().limits.upload_age_max);
    repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    bench.clock.advance(80 * MINUTE);
    assert_eq!(bench.registry.reap_uploads().await.unwrap(), ReaperReport::default());
    bench.clock.advance(MINUTE);
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 1, failed: 0 });
}

/// So long after it was finished, no retry of an upload can write its link.
const CLOSED_USE: std::time::Duration = std::time::Duration::from_secs(80 * 60);

/// There are no more sessions than uploads of the last hour or two, and those that were cut off.
#[tokio::test]
async fn sessions_of_finished_uploads_go_early_and_unfinished_ones_are_read_once() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let open = begun(&bench, 1).await;
    let mut contents = Vec::new();
    for length in [1, PART * 3] {
        let content = bytes(length);
        let id = repository.upload_start(None);
        repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
        contents.push(content);
    }
    let is_session = |key: &Key| !key.as_str().contains('.');
    let sessions = async || bench.keys("uploads/").await.into_iter().filter(is_session).count();
    bench.clock.advance(CLOSED_USE);
    assert_eq!(bench.registry.reap_uploads().await.unwrap(), ReaperReport::default());
    assert_eq!(sessions().await, 3);
    bench.clock.advance(MINUTE);
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 2, failed: 0 });
    assert_eq!(sessions().await, 1);
    for content in &contents {
        assert_eq!(bench.pull("a", &digest(content)).await.unwrap(), content);
    }
    bench.calls.take();
    for _ in 0..3 {
        assert_eq!(bench.registry.reap_uploads().await.unwrap(), ReaperReport::default());
    }
    let calls: Vec<_> = bench.calls.take().into_iter().map(|call| call.operation).collect();
    assert_eq!(calls, ["get", "list"].repeat(3), "what is not finished was read before");
    // The upload continues, and what became of it is seen.
    repository.upload_append(&open, UploadChunk::of(bytes(1))).await.unwrap();
    let content = Bytes::from([bytes(1), bytes(1)].concat());
    repository.upload_finish(&open, &digest(&content), UploadChunk::empty()).await.unwrap();
    bench.clock.advance(CLOSED_USE + MINUTE);
    let reaped = bench.registry.reap_uploads().await.unwrap();
    assert_eq!(reaped, ReaperReport { unfinished: 0, ended: 1, failed: 0 });
    assert_eq!(bench.keys("uploads/").await, []);
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

/// The client that retries so late begins anew, and its bytes are kept.
#[tokio::test]
async fn an_upload_restarted_after_its_session_was_reaped_is_complete() {
    let bench = Bench::new().await;
    let (content, repository) = (bytes(PART * 2), bench.repository("a"));
    let id = repository.upload_start(None);
    let push = async || {
        repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    };
    push().await;
    bench.clock.advance(CLOSED_USE + MINUTE);
    assert_eq!(bench.registry.reap_uploads().await.unwrap().ended, 1);
    push().await;
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
    bench.clock.advance(CLOSED_USE + MINUTE);
    assert_eq!(bench.registry.reap_uploads().await.unwrap().ended, 1);
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

/// Two instances find a finished upload past use; the slower one must not remove what the client began
/// anew under the id after the other had removed the session.
#[tokio::test]
async fn a_slow_reaper_does_not_remove_an_upload_that_began_anew() {
    for is_read in [true, false] {
        let bench = Bench::new().await;
        let (content, repository) = (bytes(PART * 2), bench.repository("a"));
        let id = repository.upload_start(None);
        repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
        bench.clock.advance(CLOSED_USE + MINUTE);
        let gate = Arc::new(GateStore::new(bench.faults.clone()));
        let clock = bench.clock.clone();
        let slow = Registry::open(gate.clone(), clock, RegistryOptions::default()).await.unwrap();
        let mut held = match is_read {
            true => gate.hold_response(|call| call.operation == "get"),
            false => gate.hold(move |call| !call.is_read()),
        };
        let reaping = tokio::spawn(async move { slow.reap_uploads().await });
        held.reached(1).await;
        assert_eq!(bench.registry.reap_uploads().await.unwrap().ended, 1);
        repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
        held.release();
        assert_eq!(reaping.await.unwrap().unwrap(), ReaperReport::default(), "{is_read}");
        let there = repository.upload_status(&id).await.unwrap();
        assert_eq!(there.offset, content.len() as u64, "{is_read}");
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
        assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
    }
}

/// A closing PUT that comes again after the session went is answered by the blob, and writes nothing.
#[tokio::test]
async fn a_repeated_closing_put_after_the_session_was_reaped_finds_the_blob() {
    for length in [None, Some(0)] {
        let bench = Bench::new().await;
        let (content, repository) = (bytes(PART * 2), bench.repository("a"));
        let id = repository.upload_start(None);
        let close = async |of: &Bytes| {
            let chunk = UploadChunk { length, ..UploadChunk::empty() };
            repository.upload_finish(&id, &digest(of), chunk).await
        };
        repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
        close(&content).await.unwrap();
        bench.clock.advance(CLOSED_USE + MINUTE);
        assert_eq!(bench.registry.reap_uploads().await.unwrap().ended, 1);
        let again = close(&content).await.unwrap();
        assert_eq!(again.size_bytes, content.len() as u64);
        let other = close(&bytes(PART)).await;
        assert!(matches!(other, Err(Error::UploadUnknown { .. })), "{other:?}");
        assert_eq!(bench.keys("uploads/").await, []);
        // A blob without a byte is one.
        assert_eq!(close(&Bytes::new()).await.unwrap().size_bytes, 0);
    }
}
