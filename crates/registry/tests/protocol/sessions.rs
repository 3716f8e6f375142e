//! The states of an upload's session, and who may do what in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use jreg_oci::{Algorithm, ContentRange, Digest};
use jreg_registry::{Error, UploadChunk, UploadId, UploadProgress};
use jreg_storage::testing::{Call, Fault};
use jreg_storage::{ErrorKind, PutMode, Store};

use crate::bench::{Bench, HOUR, MINUTE, PART, bytes, digest, open_body};

fn is_complete(call: &Call) -> bool {
    call.operation == "complete_multipart"
}

fn is_link_write(call: &Call) -> bool {
    call.operation == "put" && call.key.starts_with("links/")
}

/// An upload whose bytes have all come.
async fn filled(bench: &Bench, content: &Bytes) -> UploadId {
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
    id
}

#[tokio::test]
async fn newer_request_takes_an_upload_over_and_the_older_adds_nothing() {
    let bench = Bench::new().await;
    let content = bytes(PART * 4);
    let id = filled(&bench, &content.slice(..PART * 2)).await;
    let (mut sender, chunk) = open_body();
    let (repository, older_id) = (bench.repository("a"), id.clone());
    let mut held = bench.gate.hold(|call| call.operation == "put_part");
    let older = tokio::spawn(async move { repository.upload_append(&older_id, chunk).await });
    sender.send(Ok(Bytes::from(vec![0xff; PART + 1]))).await.unwrap();
    held.reached(1).await;
    held.release();

    let rest = UploadChunk::of(content.slice(PART * 2..));
    let newer = bench.repository("a").upload_append(&id, rest).await.unwrap();
    assert_eq!(newer, UploadProgress { offset: PART as u64 * 4 });
    drop(sender);
    let older = older.await.unwrap();
    assert!(matches!(older, Err(Error::UploadSuperseded { .. })), "{older:?}");
    bench
        .repository("a")
        .upload_finish(&id, &digest(&content), UploadChunk::empty())
        .await
        .unwrap();
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn an_upload_is_claimed_before_a_part_is_sent() {
    let bench = Bench::new().await;
    let content = bytes(PART * 5);
    let id = filled(&bench, &content.slice(..PART * 2)).await;
    bench.calls.take();
    let rest = UploadChunk::of(content.slice(PART * 2..));
    bench.repository("a").upload_append(&id, rest).await.unwrap();
    let writes = bench.writes();
    let first = |what: &str| writes.iter().position(|write| write.starts_with(what)).unwrap();
    assert!(first(&format!("put uploads/{id}")) < first("put_part "), "{writes:?}");
}

#[tokio::test]
async fn first_chunks_of_two_requests_follow_each_other() {
    let bench = Bench::new().await;
    let content = bytes(PART);
    let (first, second) = (content.slice(..3), content.slice(3..));
    let id = filled(&bench, &first).await;
    let progress = bench.repository("a").upload_append(&id, UploadChunk::of(second)).await.unwrap();
    assert_eq!(progress.offset, PART as u64);
    bench
        .repository("a")
        .upload_finish(&id, &digest(&content), UploadChunk::empty())
        .await
        .unwrap();
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

/// An instance that stored the last bytes it knows of may be wrong about them being the last.
#[tokio::test]
async fn what_an_instance_remembers_of_an_upload_is_not_relied_on() {
    let bench = Bench::new().await;
    let content = bytes(PART);
    let (first, second) = (content.slice(..3), content.slice(3..));
    for right in [true, false] {
        let id = filled(&bench, &first).await;
        bench.another("a").await.upload_append(&id, UploadChunk::of(second.clone())).await.unwrap();
        let wanted = if right { digest(&content) } else { digest(&first) };
        let finished =
            bench.repository("a").upload_finish(&id, &wanted, UploadChunk::empty()).await;
        if right {
            finished.unwrap();
            assert_eq!(bench.pull("a", &wanted).await.unwrap(), content);
        } else {
            assert!(matches!(finished, Err(Error::DigestMismatch { .. })), "{finished:?}");
            assert!(bench.pull("a", &wanted).await.is_err());
        }
    }
}

#[tokio::test]
async fn upload_that_another_instance_cancelled_cannot_be_closed_from_memory() {
    let bench = Bench::new().await;
    let content = bytes(PART);
    let id = filled(&bench, &content).await;
    bench.another("a").await.upload_cancel(&id).await.unwrap();
    let repository = bench.repository("a");
    let finished = repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await;
    assert!(matches!(finished, Err(Error::UploadUnknown { .. })), "{finished:?}");
    assert!(bench.pull("a", &digest(&content)).await.is_err());
}

#[tokio::test]
async fn remembered_upload_is_still_of_one_repository_and_of_limited_age() {
    let bench = Bench::new().await;
    let content = bytes(PART);
    let wanted = digest(&content);
    let id = filled(&bench, &content).await;
    let repository = bench.repository("b");
    let elsewhere = repository.upload_finish(&id, &wanted, UploadChunk::empty()).await;
    assert!(matches!(elsewhere, Err(Error::UploadUnknown { .. })), "{elsewhere:?}");
    let id = filled(&bench, &content).await;
    bench.clock.advance(HOUR * 24 * 7);
    let late = bench.repository("a").upload_finish(&id, &wanted, UploadChunk::empty()).await;
    assert!(matches!(late, Err(Error::UploadUnknown { .. })), "{late:?}");
}

/// A PATCH whose response the client did not wait for may be recorded after the client looked,
/// found nothing, and sent all of it with the closing PUT.
#[tokio::test]
async fn fixed_whole_blob_that_closes_an_upload_gets_its_offset() {
    let bench = Bench::new().await;
    let content = bytes(PART);
    let id = filled(&bench, &content.slice(..3)).await;
    let whole = ContentRange { start: 0, end_inclusive: PART as u64 - 1 };
    let chunk = UploadChunk { range: Some(whole), ..UploadChunk::of(content.clone()) };
    let repository = bench.repository("a");
    let refused = repository.upload_finish(&id, &digest(&content), chunk).await.unwrap_err();
    assert!(matches!(refused, Error::ChunkOutOfOrder { start: 0, offset: 3 }), "{refused}");
    let rest = UploadChunk::of(content.slice(3..));
    repository.upload_finish(&id, &digest(&content), rest).await.unwrap();
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn session_is_closed_before_its_parts_become_the_object() {
    let bench = Bench::new().await;
    let content = bytes(PART * 3);
    let id = filled(&bench, &content).await;
    bench.calls.take();
    bench
        .repository("a")
        .upload_finish(&id, &digest(&content), UploadChunk::empty())
        .await
        .unwrap();
    let writes = bench.writes();
    assert_eq!(writes[0], format!("put uploads/{id}"), "{writes:?}");
    assert!(writes[1].starts_with("complete_multipart "), "{writes:?}");
    assert!(writes[2].starts_with("put links/"), "{writes:?}");
    assert_eq!(writes.len(), 3, "nothing is copied: {writes:?}");
}

#[tokio::test]
async fn any_request_finishes_a_closed_session() {
    for fault in [
        Fault::fail(ErrorKind::Unavailable).on(is_complete),
        Fault::lose_response(ErrorKind::Unavailable).on(is_complete),
        Fault::fail(ErrorKind::Unavailable).on(is_link_write),
        Fault::lose_response(ErrorKind::Unavailable).on(is_link_write),
    ] {
        let bench = Bench::new().await;
        let (content, named) = (bytes(PART * 3), format!("{fault:?}"));
        let id = filled(&bench, &content).await;
        bench.faults.inject(fault);
        let repository = bench.repository("a");
        let failed = repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await;
        assert!(matches!(failed, Err(Error::Store(_))), "{named}: {failed:?}");
        let cancelled = repository.upload_cancel(&id).await;
        assert!(matches!(cancelled, Err(Error::UploadUnknown { .. })), "{named}: {cancelled:?}");
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
        assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content, "{named}");
    }
}

#[tokio::test]
async fn closing_again_links_again_only_within_an_hour() {
    let bench = Bench::new().await;
    let content = bytes(PART * 3);
    let id = filled(&bench, &content).await;
    let link_is_lost = Fault::fail(ErrorKind::Unavailable).on(is_link_write);
    bench.faults.inject(link_is_lost);
    let repository = bench.repository("a");
    repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap_err();
    bench.clock.advance(HOUR + MINUTE);
    let late = repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await;
    assert!(matches!(late, Err(Error::UploadUnknown { .. })), "{late:?}");
    assert_eq!(bench.keys("links/").await, []);
}

#[tokio::test]
async fn closing_again_after_an_hour_is_fine_while_the_blob_is_there() {
    let bench = Bench::new().await;
    let content = bytes(PART * 3);
    let id = filled(&bench, &content).await;
    let repository = bench.repository("a");
    let blob =
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    bench.clock.advance(HOUR + MINUTE);
    let again =
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    assert_eq!(again, blob);
}

#[tokio::test]
async fn closing_again_never_brings_back_what_was_deleted() {
    let bench = Bench::new().await;
    let content = bytes(PART * 3);
    let id = filled(&bench, &content).await;
    let repository = bench.repository("a");
    repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    repository.blob_delete(&digest(&content)).await.unwrap();
    let again = repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await;
    assert!(matches!(again, Err(Error::UploadUnknown { .. })), "{again:?}");
    let gone = repository.blob_open(&digest(&content)).await;
    assert!(matches!(gone, Err(Error::BlobUnknown { .. })), "{gone:?}");
    // A new push of the same bytes does.
    bench.push("a", &content).await;
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn wrong_digest_gives_the_upload_up_before_its_bytes_go() {
    let bench = Bench::new().await;
    let id = filled(&bench, &bytes(PART * 2)).await;
    bench.calls.take();
    let repository = bench.repository("a");
    let wrong = repository.upload_finish(&id, &digest(b"other"), UploadChunk::empty()).await;
    assert!(matches!(wrong, Err(Error::DigestMismatch { .. })), "{wrong:?}");
    let writes = bench.writes();
    let session = format!("put uploads/{id}");
    let swap = writes.iter().rposition(|write| *write == session).unwrap();
    assert!(writes[swap + 1].starts_with("abort_multipart "), "{writes:?}");
    let after = repository.upload_append(&id, UploadChunk::of(bytes(1))).await;
    assert!(matches!(after, Err(Error::UploadUnknown { .. })), "{after:?}");
    assert_eq!(bench.keys("blobs/").await, []);
}

#[tokio::test]
async fn cancelling_what_never_began_keeps_it_from_beginning() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_cancel(&id).await.unwrap();
    repository.upload_cancel(&id).await.unwrap();
    let content = bytes(3);
    let appended = repository.upload_append(&id, UploadChunk::of(content.clone())).await;
    assert!(matches!(appended, Err(Error::UploadUnknown { .. })), "{appended:?}");
    let finished = repository.upload_finish(&id, &digest(&content), UploadChunk::of(content)).await;
    assert!(matches!(finished, Err(Error::UploadUnknown { .. })), "{finished:?}");
    assert_eq!(bench.keys("blobs/").await, [], "what came too late is taken back");
}

#[tokio::test]
async fn cancelling_waits_for_nothing_and_the_writer_that_ran_fails() {
    let bench = Bench::new().await;
    let id = filled(&bench, &bytes(PART * 2)).await;
    let (mut sender, chunk) = open_body();
    let (repository, running_id) = (bench.repository("a"), id.clone());
    let mut claimed = bench.gate.hold_response(|call| call.operation == "resume_multipart");
    let running = tokio::spawn(async move { repository.upload_append(&running_id, chunk).await });
    sender.send(Ok(bytes(PART * 2))).await.unwrap();
    claimed.reached(1).await;
    bench.repository("a").upload_cancel(&id).await.unwrap();
    claimed.release();
    drop(sender);
    let running = running.await.unwrap();
    let is_shut_out =
        matches!(running, Err(Error::UploadSuperseded { .. } | Error::UploadUnknown { .. }));
    assert!(is_shut_out, "{running:?}");
}

#[tokio::test]
async fn own_bytes_go_once_another_link_is_found() {
    let bench = Bench::new().await;
    let content = bytes(PART / 2);
    bench.push("a", &content).await;
    let kept = bench.keys("blobs/").await;
    bench.push("a", &content).await;
    assert_eq!(bench.keys("blobs/").await, kept);
}

#[tokio::test]
async fn own_bytes_stay_while_a_link_to_them_may_have_been_written() {
    let bench = Bench::new().await;
    let content = bytes(PART / 2);
    let lost = Fault::lose_response(ErrorKind::Unavailable).on(is_link_write);
    bench.faults.inject(lost);
    let repository = bench.repository("a");
    let pushed = repository.blob_push(&digest(&content), UploadChunk::of(content.clone())).await;
    assert!(matches!(pushed, Err(Error::Store(_))), "{pushed:?}");
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn bytes_of_a_session_stay_for_later_links() {
    let bench = Bench::new().await;
    let (content, name) = (bytes(PART * 3), digest(&bytes(PART * 3)));
    let id = filled(&bench, &content).await;
    let repository = bench.repository("a");
    repository.upload_finish(&id, &name, UploadChunk::empty()).await.unwrap();
    bench.repository("c").blob_mount(&name, &"a".parse().unwrap()).await.unwrap().unwrap();
    // The first link goes, and comes back with other bytes of the same digest.
    repository.blob_delete(&name).await.unwrap();
    bench.repository("c").blob_delete(&name).await.unwrap();
    bench.push("a", &content).await;
    bench.repository("c").blob_mount(&name, &"a".parse().unwrap()).await.unwrap().unwrap();
    repository.upload_finish(&id, &name, UploadChunk::empty()).await.unwrap();
    for holder in ["a", "c"] {
        assert_eq!(bench.pull(holder, &name).await.unwrap(), content, "{holder}");
    }
}

#[tokio::test]
async fn replay_never_takes_back_what_it_once_linked() {
    let bench = Bench::new().await;
    let (content, name) = (bytes(PART * 3), digest(&bytes(PART * 3)));
    let id = filled(&bench, &content).await;
    let repository = bench.repository("a");
    repository.upload_finish(&id, &name, UploadChunk::empty()).await.unwrap();
    bench.repository("c").blob_mount(&name, &"a".parse().unwrap()).await.unwrap().unwrap();
    repository.blob_delete(&name).await.unwrap();
    // Pushed in one part, it is not searched for elsewhere: these are bytes of their own.
    let own = repository.upload_start(None);
    repository.upload_append(&own, UploadChunk::of(content.clone())).await.unwrap();
    repository.upload_finish(&own, &name, UploadChunk::empty()).await.unwrap();
    repository.upload_finish(&id, &name, UploadChunk::empty()).await.unwrap();
    assert_eq!(bench.pull("c", &name).await.unwrap(), content);
}

/// The response to the first closing PUT, and the write of its link, were lost.
#[tokio::test]
async fn replay_revives_a_link_that_was_deleted_before_the_close() {
    for length in [PART / 2, PART * 3] {
        let bench = Bench::new().await;
        let (content, repository) = (bytes(length), bench.repository("a"));
        let name = bench.push("a", &content).await.digest;
        repository.blob_delete(&name).await.unwrap();
        let id = filled(&bench, &content).await;
        bench.clock.advance(MINUTE);
        bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(is_link_write));
        let failed = repository.upload_finish(&id, &name, UploadChunk::empty()).await;
        assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
        repository.upload_finish(&id, &name, UploadChunk::empty()).await.unwrap();
        assert_eq!(bench.pull("a", &name).await.unwrap(), content);
    }
}

#[tokio::test]
async fn replay_leaves_a_link_deleted_that_was_deleted_since_the_close() {
    for later in [Duration::ZERO, MINUTE] {
        let bench = Bench::new().await;
        let (content, repository) = (bytes(PART / 2), bench.repository("a"));
        let id = filled(&bench, &content).await;
        let name = digest(&content);
        repository.upload_finish(&id, &name, UploadChunk::empty()).await.unwrap();
        bench.clock.advance(later);
        repository.blob_delete(&name).await.unwrap();
        bench.clock.advance(MINUTE);
        let again = repository.upload_finish(&id, &name, UploadChunk::empty()).await;
        assert!(matches!(again, Err(Error::UploadUnknown { .. })), "{later:?}: {again:?}");
        assert!(bench.pull("a", &name).await.is_err(), "{later:?}");
    }
}

#[tokio::test]
async fn replay_links_only_bytes_that_are_there() {
    let bench = Bench::new().await;
    let content = bytes(PART / 2);
    let id = filled(&bench, &content).await;
    bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(is_link_write));
    let repository = bench.repository("a");
    repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap_err();
    for lost in bench.keys("blobs/").await {
        bench.faults.delete(&lost, None).await.unwrap();
    }
    let again = repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await;
    assert!(matches!(again, Err(Error::UploadUnknown { .. })), "{again:?}");
    assert_eq!(bench.keys("links/").await, []);
}

#[tokio::test]
async fn closing_twice_at_once_succeeds_twice() {
    let bench = Bench::new().await;
    let content = bytes(PART * 3);
    let id = filled(&bench, &content).await;
    let mut held =
        bench.gate.hold(|call| call.operation == "put" && call.key.starts_with("uploads/"));
    let close = |repository: jreg_registry::Repository| {
        let (id, name) = (id.clone(), digest(&content));
        tokio::spawn(
            async move { repository.upload_finish(&id, &name, UploadChunk::empty()).await },
        )
    };
    let both = [close(bench.repository("a")), close(bench.repository("a"))];
    held.reached(2).await;
    held.release();
    for closed in both {
        closed.await.unwrap().unwrap();
    }
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn closing_with_another_algorithm_continues_after_a_lost_response() {
    for fault in [
        Fault::lose_response(ErrorKind::Unavailable).on(is_complete),
        Fault::fail(ErrorKind::Unavailable).on(|call| call.operation == "read"),
    ] {
        let bench = Bench::new().await;
        let (content, named) = (bytes(PART * 3), format!("{fault:?}"));
        let id = filled(&bench, &content).await;
        bench.faults.inject(fault);
        let long = Digest::of(Algorithm::Sha512, &content);
        let repository = bench.repository("a");
        let failed = repository.upload_finish(&id, &long, UploadChunk::empty()).await;
        assert!(matches!(failed, Err(Error::Store(_))), "{named}: {failed:?}");
        repository.upload_finish(&id, &long, UploadChunk::empty()).await.unwrap();
        assert_eq!(bench.pull("a", &long).await.unwrap(), content, "{named}");
    }
}

#[tokio::test]
async fn push_that_breaks_off_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let (mut sender, chunk) = open_body();
    let repository = bench.repository("a");
    let name = digest(&bytes(PART * 4));
    let pushing = tokio::spawn(async move { repository.blob_push(&name, chunk).await });
    let mut part = bench.gate.hold(|call| call.operation == "put_part");
    sender.send(Ok(bytes(PART * 3))).await.unwrap();
    part.reached(1).await;
    let upload = bench.multipart().await;
    part.release();
    sender.send(Err(jreg_registry::BodyError::Broken)).await.unwrap();
    let broken = pushing.await.unwrap();
    assert!(matches!(broken, Err(Error::Body(_))), "{broken:?}");
    assert_eq!(bench.keys("blobs/").await, []);
    assert!(bench.multipart_is_absent(&upload).await);
}

#[tokio::test]
async fn closing_put_that_breaks_off_leaves_an_upload_without_bytes() {
    let bench = Bench::new().await;
    let content = bytes(PART * 4);
    let id = bench.repository("a").upload_start(None);
    let (mut sender, chunk) = open_body();
    let (repository, name, broken_id) = (bench.repository("a"), digest(&content), id.clone());
    let finishing =
        tokio::spawn(async move { repository.upload_finish(&broken_id, &name, chunk).await });
    let mut part = bench.gate.hold(|call| call.operation == "put_part");
    sender.send(Ok(bytes(PART * 3))).await.unwrap();
    part.reached(1).await;
    let upload = bench.multipart().await;
    part.release();
    sender.send(Err(jreg_registry::BodyError::Broken)).await.unwrap();
    let broken = finishing.await.unwrap();
    assert!(matches!(broken, Err(Error::Body(_))), "{broken:?}");
    assert!(bench.multipart_is_absent(&upload).await);
    let repository = bench.repository("a");
    assert_eq!(repository.upload_status(&id).await.unwrap().offset, 0);
    repository
        .upload_finish(&id, &digest(&content), UploadChunk::of(content.clone()))
        .await
        .unwrap();
    assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
}

#[tokio::test]
async fn blob_that_can_never_be_stored_is_refused_before_its_first_byte() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let most = PART as u64 * 100 * 1024 * 1024 * 1024;
    for length in [most, u64::MAX] {
        let (_sender, chunk) = open_body();
        let chunk = UploadChunk { length: Some(length), ..chunk };
        let refused = repository.blob_push(&digest(b""), chunk).await;
        assert!(matches!(refused, Err(Error::BlobTooLarge { .. })), "{refused:?}");
    }
    bench.push("a", &bytes(PART * 3)).await;
}

#[tokio::test]
async fn session_of_another_repository_is_unknown() {
    let bench = Bench::new().await;
    let id = filled(&bench, &bytes(3)).await;
    let other = bench.repository("b");
    for length in [0, 2] {
        let appended = other.upload_append(&id, UploadChunk::of(bytes(length))).await;
        assert!(matches!(appended, Err(Error::UploadUnknown { .. })), "{appended:?}");
    }
    let content = bytes(3);
    let finished = other.upload_finish(&id, &digest(&content), UploadChunk::of(content)).await;
    assert!(matches!(finished, Err(Error::UploadUnknown { .. })), "{finished:?}");
    assert_eq!(bench.keys("links/").await, []);
}

#[tokio::test]
async fn long_streams_are_recorded_on_the_way() {
    let bench = Bench::new().await;
    let id = bench.repository("a").upload_start(None);
    let (mut sender, chunk) = open_body();
    let (repository, running_id) = (bench.repository("a"), id.clone());
    let running = tokio::spawn(async move { repository.upload_append(&running_id, chunk).await });
    sender.send(Ok(bytes(PART * 3))).await.unwrap();
    sender.send(Err(jreg_registry::BodyError::Broken)).await.unwrap();
    let broken = running.await.unwrap();
    assert!(matches!(broken, Err(Error::Body(_))), "{broken:?}");
    let progress = bench.repository("a").upload_status(&id).await.unwrap();
    assert_eq!(progress.offset, PART as u64 * 3);
}

#[tokio::test]
async fn record_that_cannot_be_read_is_damage_not_absence() {
    let bench = Bench::new().await;
    let id = filled(&bench, &bytes(3)).await;
    let session = bench.keys("uploads/").await.remove(0);
    bench.faults.put(&session, Bytes::from_static(b"{}"), PutMode::Overwrite).await.unwrap();
    let status = bench.repository("a").upload_status(&id).await;
    assert!(matches!(status, Err(Error::Damaged { .. })), "{status:?}");
}

/// A client that waits to be asked for its bytes (`Expect: 100-continue`) is asked at once, before
/// anything is searched for: how long that takes must not say whether a repository has the blob.
#[tokio::test]
async fn fixed_bytes_are_requested_before_the_digest_is_looked_up() {
    for is_held in [true, false] {
        let bench = Bench::new().await;
        let content = bytes(PART * 4);
        if is_held {
            bench.push("b", &content).await;
        }
        bench.calls.take();
        let asked = Arc::new(AtomicBool::new(false));
        let (asks, body) = (Arc::clone(&asked), content.clone());
        let calls = Arc::clone(&bench.calls);
        let body = futures::stream::once(async move {
            asks.store(true, Ordering::SeqCst);
            assert_eq!(calls.count(), 0, "held: {is_held}");
            Ok(body)
        });
        let length = Some(content.len() as u64);
        let chunk = UploadChunk::new(None, length, Box::pin(body));
        bench.repository("a").blob_push(&digest(&content), chunk).await.unwrap();
        assert!(asked.load(Ordering::SeqCst));
    }
}
