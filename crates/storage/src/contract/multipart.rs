//! Clauses about multipart uploads: their life, their claims, their end.

use super::*;
use crate::{SequenceOutcome, StoreChange};

async fn begin_at(store: &dyn Store, name: &str) -> Multipart {
    let part_bytes = store.capabilities().parts.part_bytes;
    store.create_multipart(&key(name), 1, part_bytes).await.unwrap()
}

async fn begin(store: &dyn Store) -> Multipart {
    begin_at(store, "bulk/object").await
}

/// Nothing is visible at the key, nor in a listing, until the upload is completed.
pub async fn upload_is_invisible_until_completed(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.sync_parts(&upload).await.unwrap();
    assert_eq!(kind(store.head(&key("bulk/object")).await), ErrorKind::NotFound);
    assert!(list_all(&*store, "").await.is_empty());
    let folders = ListRequest { delimiter: true, ..ListRequest::below("") };
    assert!(store.list(&folders).await.unwrap().prefixes.is_empty());
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(list_all(&*store, "").await, ["bulk/object"]);
    assert_eq!(read_whole(&*store, "bulk/object").await, part_bytes(&*store, 0, 1));
}

/// Changes are made one after the other, up to the first that cannot be made; an error says that none
/// was.
pub async fn completion_is_one_of_a_sequence_of_changes(store: Arc<dyn Store>) {
    let put = |at: &str| Put::new(key(at), "1".into(), PutMode::Create);
    for (number, then) in ["then/0", "then/0"].into_iter().enumerate() {
        let mut upload = begin_at(&*store, &format!("bulk/{number}")).await;
        append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
        let first = format!("first/{number}");
        let before = vec![StoreChange::Put(put(&first)), StoreChange::Complete(upload)];
        match store.put_after(before, put(then)).await.unwrap() {
            SequenceOutcome::All(written) if number == 0 => {
                assert_eq!(store.get(&key(then)).await.unwrap().etag, written.etag);
            }
            SequenceOutcome::Stopped { done, error } if number == 1 => {
                assert_eq!((done, error.kind()), (2, ErrorKind::AlreadyExists));
            }
            other => panic!("{number}: {other:?}"),
        }
    }
    let gone = begin(&*store).await;
    store.abort_multipart(&gone).await.unwrap();
    let stopped = store.put_after(vec![StoreChange::Complete(gone.clone())], put("never")).await;
    assert_ne!(kind(stopped.map(|_| ())), ErrorKind::AlreadyExists);
    let before = vec![StoreChange::Put(put("first/2")), StoreChange::Complete(gone)];
    let SequenceOutcome::Stopped { done: 1, .. } =
        store.put_after(before, put("never")).await.unwrap()
    else {
        panic!("an upload that was aborted is completed");
    };
    let there = list_all(&*store, "").await;
    assert_eq!(there, ["bulk/0", "bulk/1", "first/0", "first/1", "first/2", "then/0"]);
}

/// Parts may be sent in any order and at the same time; the offset says where they belong.
pub async fn parts_may_be_sent_in_any_order_and_at_once(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    let mut wanted = Vec::new();
    let mut sending = Vec::new();
    for (index, seed) in [(0, 1), (1, 5), (2, 9)] {
        let bytes = part_bytes(&*store, index, seed);
        let (offset, store, upload) = (wanted.len() as u64, store.clone(), upload.clone());
        wanted.extend_from_slice(&bytes);
        sending.push(async move { store.put_part(&upload, offset, bytes).await.unwrap() });
    }
    let (last, tail) = (wanted.len() as u64, Bytes::from_static(b"the short last part"));
    wanted.extend_from_slice(&tail);
    let tail = store.put_part(&upload, last, tail).await.unwrap();
    sending.reverse();
    let mut parts: Vec<Part> = Vec::new();
    for task in sending.into_iter().map(tokio::spawn).collect::<Vec<_>>() {
        parts.push(task.await.unwrap());
    }
    parts.push(tail);
    parts.sort_by_key(|part| part.offset);
    parts.into_iter().for_each(|part| upload.record(part));
    assert_eq!(upload.size_bytes(), wanted.len() as u64);
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(read_whole(&*store, "bulk/object").await, wanted);
}

/// The object is exactly the recorded parts: one that was sent but not recorded is not in it.
pub async fn completed_object_is_the_recorded_parts_only(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.put_part(&upload, upload.size_bytes(), part_bytes(&*store, 1, 1)).await.unwrap();
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(store.head(&key("bulk/object")).await.unwrap().size_bytes, upload.size_bytes());
    assert_eq!(read_whole(&*store, "bulk/object").await, part_bytes(&*store, 0, 1));
}

/// A resumed upload is the same upload, with its recorded parts and the new claim.
pub async fn resumed_upload_continues_after_its_recorded_parts(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.sync_parts(&upload).await.unwrap();
    let mut resumed = store.resume_multipart(&upload, 2).await.unwrap();
    assert_eq!(resumed, Multipart { writer: 2, ..upload });
    append(&*store, &mut resumed, part_bytes(&*store, 1, 7)).await;
    store.complete_multipart(&resumed).await.unwrap();
    let wanted = [part_bytes(&*store, 0, 1), part_bytes(&*store, 1, 7)].concat();
    assert_eq!(read_whole(&*store, "bulk/object").await, wanted);
}

/// What lies beyond the recorded parts is discarded on resume, even if it was larger than what
/// is written in its place.
pub async fn resumed_upload_drops_what_was_not_recorded(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.put_part(&upload, upload.size_bytes(), part_bytes(&*store, 1, 50)).await.unwrap();
    let mut resumed = store.resume_multipart(&upload, 2).await.unwrap();
    append(&*store, &mut resumed, Bytes::from_static(b"short")).await;
    store.complete_multipart(&resumed).await.unwrap();
    let wanted = [part_bytes(&*store, 0, 1), Bytes::from_static(b"short")].concat();
    assert_eq!(read_whole(&*store, "bulk/object").await, wanted);
}

/// The claim that is writing may resume its own upload.
pub async fn upload_resumed_by_its_own_claim_continues(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    let upload = store.resume_multipart(&upload, 1).await.unwrap();
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(read_whole(&*store, "bulk/object").await, part_bytes(&*store, 0, 1));
}

/// A superseded claim is `Precondition` where the store can tell; where it cannot, what it
/// writes either has no effect or makes the completion `NotFound`.
pub async fn superseded_claim_never_spoils_an_object_unnoticed(store: Arc<dyn Store>) {
    let mut old = begin(&*store).await;
    append(&*store, &mut old, part_bytes(&*store, 0, 1)).await;
    let mut new = store.resume_multipart(&old, 2).await.unwrap();
    append(&*store, &mut new, part_bytes(&*store, 1, 2)).await;
    let spoiling = store.put_part(&old, old.size_bytes(), part_bytes(&*store, 1, 99)).await;
    let returning = store.resume_multipart(&old, 1).await;
    if store.capabilities().fences_claims {
        assert_eq!(kind(spoiling), ErrorKind::Precondition);
        assert_eq!(kind(returning), ErrorKind::Precondition);
    }
    match store.complete_multipart(&new).await {
        Ok(()) => {
            let wanted = [part_bytes(&*store, 0, 1), part_bytes(&*store, 1, 2)].concat();
            assert_eq!(read_whole(&*store, "bulk/object").await, wanted);
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(!store.capabilities().fences_claims);
        }
    }
}

/// The upload as a record would have it that names a part which was never stored.
async fn upload_with_a_lost_part(store: &dyn Store) -> Multipart {
    let mut upload = begin(store).await;
    let part = append(store, &mut upload, part_bytes(store, 0, 1)).await;
    let etag = if part.etag.is_empty() { part.etag } else { format!("{}0", part.etag) };
    upload.record(Part { offset: upload.size_bytes(), size_bytes: part.size_bytes, etag });
    upload
}

/// Resuming an upload that holds fewer bytes than were recorded is `NotFound`; a shared store may
/// leave that to the completion.
pub async fn resume_of_a_lost_part_is_not_found(store: Arc<dyn Store>) {
    let upload = upload_with_a_lost_part(&*store).await;
    assert_eq!(resumed_and_completed(&*store, &upload).await, Err(ErrorKind::NotFound));
}

async fn resumed_and_completed(store: &dyn Store, upload: &Multipart) -> Result<(), ErrorKind> {
    match store.resume_multipart(upload, 2).await.map_err(|error| error.kind()) {
        Ok(resumed) if !store.capabilities().fences_claims => {
            store.complete_multipart(&resumed).await.map_err(|error| error.kind())
        }
        outcome => outcome.map(|_| ()),
    }
}

/// Completing an upload whose parts are not the recorded ones is `NotFound`, and shows nothing.
pub async fn completion_of_a_lost_part_is_not_found(store: Arc<dyn Store>) {
    let upload = upload_with_a_lost_part(&*store).await;
    assert_eq!(kind(store.complete_multipart(&upload).await), ErrorKind::NotFound);
    assert_eq!(kind(store.head(&key("bulk/object")).await), ErrorKind::NotFound);
}

/// An aborted upload no longer exists for every method; aborting it again is `Ok`.
pub async fn aborted_upload_is_not_found(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.abort_multipart(&upload).await.unwrap();
    let more = store.put_part(&upload, upload.size_bytes(), part_bytes(&*store, 1, 1)).await;
    assert_eq!(kind(more), ErrorKind::NotFound);
    assert_eq!(resumed_and_completed(&*store, &upload).await, Err(ErrorKind::NotFound));
    assert_eq!(kind(store.complete_multipart(&upload).await), ErrorKind::NotFound);
    assert_eq!(kind(store.head(&key("bulk/object")).await), ErrorKind::NotFound);
    store.abort_multipart(&upload).await.unwrap();
}

/// A second completion is `NotFound` (a shared store may say once more that it succeeded), and
/// the object of the first stays as it is.
pub async fn completed_twice_is_not_found_and_the_object_intact(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.complete_multipart(&upload).await.unwrap();
    match store.complete_multipart(&upload).await {
        Ok(()) => assert!(!store.capabilities().fences_claims),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
    let late = store.put_part(&upload, 0, part_bytes(&*store, 0, 99)).await;
    assert_eq!(kind(late), ErrorKind::NotFound);
    assert_eq!(read_whole(&*store, "bulk/object").await, part_bytes(&*store, 0, 1));
}

/// Aborting an upload that was completed is `Ok` and leaves the object.
pub async fn abort_after_completion_leaves_the_object(store: Arc<dyn Store>) {
    let mut upload = begin(&*store).await;
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    store.complete_multipart(&upload).await.unwrap();
    store.abort_multipart(&upload).await.unwrap();
    assert_eq!(read_whole(&*store, "bulk/object").await, part_bytes(&*store, 0, 1));
}

/// Uploads to neighbouring keys, and to one key, share nothing.
pub async fn uploads_do_not_meet(store: Arc<dyn Store>) {
    let mut first = begin(&*store).await;
    let mut twin = begin(&*store).await;
    let mut other = begin_at(&*store, "bulk/other").await;
    assert_ne!(first.id, twin.id);
    append(&*store, &mut first, part_bytes(&*store, 0, 1)).await;
    append(&*store, &mut twin, part_bytes(&*store, 0, 2)).await;
    append(&*store, &mut other, part_bytes(&*store, 0, 3)).await;
    store.abort_multipart(&twin).await.unwrap();
    store.complete_multipart(&other).await.unwrap();
    store.complete_multipart(&first).await.unwrap();
    assert_eq!(read_whole(&*store, "bulk/object").await, part_bytes(&*store, 0, 1));
    assert_eq!(read_whole(&*store, "bulk/other").await, part_bytes(&*store, 0, 3));
}

/// Where uploads are in files: the file of one shows each part once that is stored, and stays readable
/// when the upload ends. One without a part, and one that was aborted, have none.
pub async fn growing_file_shows_every_stored_part(store: Arc<dyn Store>) {
    use std::os::unix::fs::FileExt;
    let mut upload = begin(&*store).await;
    let Err(absent) = store.staged_file(&upload).await else {
        return;
    };
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
    let open = store.staged_file(&upload).await.unwrap().unwrap();
    let first = part_bytes(&*store, 0, 1);
    assert_eq!(open.size_bytes, first.len() as u64);
    append(&*store, &mut upload, part_bytes(&*store, 1, 1)).await;
    let whole = [first, part_bytes(&*store, 1, 1)].concat();
    let read = || {
        let mut bytes = vec![0; whole.len()];
        open.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(read(), whole);
    store.sync_parts(&upload).await.unwrap();
    assert_eq!(store.staged_file(&upload).await.unwrap().unwrap().size_bytes, whole.len() as u64);
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(read(), whole);
    assert_eq!(kind(store.staged_file(&upload).await.map(|_| ())), ErrorKind::NotFound);
    let mut aborted = begin_at(&*store, "bulk/other").await;
    append(&*store, &mut aborted, part_bytes(&*store, 0, 1)).await;
    let open = store.staged_file(&aborted).await.unwrap().unwrap();
    store.abort_multipart(&aborted).await.unwrap();
    assert_eq!(open.size_bytes, part_bytes(&*store, 0, 1).len() as u64);
    assert_eq!(kind(store.staged_file(&aborted).await.map(|_| ())), ErrorKind::NotFound);
}

/// An upload that is not completed, and was made durable, is listed below the folder of its key as far as the store
/// knows of it, with at least the bytes that were written; what was completed or aborted is not, and nothing
/// outside of the prefix. A listed upload can be aborted by what the listing says.
pub async fn staged_uploads_are_those_that_are_not_completed(store: Arc<dyn Store>) {
    let mut uploads = Vec::new();
    for name in ["bulk/a/one", "bulk/b/two", "bulk/b/three", "other/four"] {
        let mut upload = begin_at(&*store, name).await;
        append(&*store, &mut upload, part_bytes(&*store, 0, 1)).await;
        store.sync_parts(&upload).await.unwrap();
        uploads.push(upload);
    }
    let listed = async |prefix: &str| {
        let mut listed = store.staged_uploads(prefix).await.unwrap();
        listed.sort_by(|one, other| one.upload.id.cmp(&other.upload.id));
        listed
    };
    let ids = |staged: &[crate::StagedUpload]| {
        staged.iter().map(|staged| staged.upload.id.clone()).collect::<Vec<_>>()
    };
    let sorted = |uploads: &[Multipart]| {
        let mut ids: Vec<_> = uploads.iter().map(|upload| upload.id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    let all = listed("bulk/").await;
    assert!(listed("none/").await.is_empty());
    if all.is_empty() {
        // The store does not list them, or drops what is not completed.
        return;
    }
    assert_eq!(ids(&all), sorted(&uploads[..3]));
    for staged in &all {
        assert!(staged.size_bytes >= uploads[0].size_bytes(), "{staged:?}");
        assert!(staged.may_be_named, "{staged:?}");
    }
    store.complete_multipart(&uploads[0]).await.unwrap();
    store.abort_multipart(&uploads[1]).await.unwrap();
    assert_eq!(ids(&listed("bulk/").await), [uploads[2].id.clone()]);
    let left = listed("bulk/").await.remove(0);
    store.abort_multipart(&left.upload).await.unwrap();
    assert!(listed("bulk/").await.is_empty());
    assert_eq!(ids(&listed("other/").await), [uploads[3].id.clone()]);
    assert_eq!(list_all(&*store, "").await, ["bulk/a/one"]);
}
