//! Clauses about records: conditional writes, deletes, etags, sizes, times.

use std::time::Duration;

use super::*;
use crate::{ETag, RECORD_BYTES_MAX};
use crate::{SequenceOutcome, StoreChange};

/// Only `NotFound` says that a key is absent, and every read of an absent key says it.
pub async fn absent_keys_are_not_found(store: Arc<dyn Store>) {
    put(&*store, "there", "bytes").await;
    put(&*store, "folder/there", "bytes").await;
    for absent in ["absent", "folder", "folder/absent", "absent/absent", "there/below"] {
        let absent = key(absent);
        assert_eq!(kind(store.get(&absent).await), ErrorKind::NotFound, "{absent}");
        assert_eq!(kind(store.head(&absent).await), ErrorKind::NotFound, "{absent}");
        let read = store.read(&absent, ByteRange { start: 0, end: 0 }).await;
        assert_eq!(read.err().unwrap().kind(), ErrorKind::NotFound, "{absent}");
    }
}

/// What was written is read, with the etag that the write returned.
pub async fn created_record_is_read_back(store: Arc<dyn Store>) {
    let written = store.put(&key("a/b"), "bytes".into(), PutMode::Create).await.unwrap();
    let record = store.get(&key("a/b")).await.unwrap();
    assert_eq!(record.bytes, "bytes");
    assert_eq!(record.etag, written.etag);
    assert_eq!(store.head(&key("a/b")).await.unwrap().size_bytes, 5);
}

/// `Create` on a taken key is `AlreadyExists` and writes nothing.
pub async fn create_refuses_a_taken_key(store: Arc<dyn Store>) {
    put(&*store, "a", "first").await;
    let second = store.put(&key("a"), "second".into(), PutMode::Create).await;
    assert_eq!(kind(second), ErrorKind::AlreadyExists);
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "first");
}

/// `Match` writes on the version it names, and on any other is `Precondition` without effect.
pub async fn match_replaces_only_its_version(store: Arc<dyn Store>) {
    let first = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap().etag;
    let second = store.put(&key("a"), "2".into(), PutMode::Match(first.clone())).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().etag, second.etag);
    let stale = store.put(&key("a"), "3".into(), PutMode::Match(first)).await;
    assert_eq!(kind(stale), ErrorKind::Precondition);
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "2");
}

/// `Match` on an absent key is `Precondition`, also after a delete, and creates nothing.
pub async fn match_refuses_an_absent_key(store: Arc<dyn Store>) {
    let etag = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap().etag;
    store.delete(&key("a"), None).await.unwrap();
    let swap = store.put(&key("a"), "2".into(), PutMode::Match(etag.clone())).await;
    assert_eq!(kind(swap), ErrorKind::Precondition);
    let elsewhere = store.put(&key("never/was"), "2".into(), PutMode::Match(etag)).await;
    assert_eq!(kind(elsewhere), ErrorKind::Precondition);
    assert!(list_all(&*store, "").await.is_empty());
}

fn put_of(at: &str, bytes: &'static str, mode: PutMode) -> Put {
    Put::new(key(at), bytes.into(), mode)
}

async fn put_pair(store: &dyn Store, first: Put, then: Put) -> Result<SequenceOutcome> {
    store.put_after(vec![StoreChange::Put(first)], then).await
}

/// Of two puts at once the second takes place only if the first did, and the first whatever
/// becomes of the second.
pub async fn of_two_puts_the_second_needs_the_first(store: Arc<dyn Store>) {
    let create = |at, bytes| put_of(at, bytes, PutMode::Create);
    let then = put_pair(&*store, create("a/1", "1"), create("b/1", "2")).await.unwrap().last();
    let first = store.get(&key("a/1")).await.unwrap();
    assert_eq!(store.get(&key("b/1")).await.unwrap().etag, then.unwrap().etag);
    let refused = put_pair(&*store, create("a/1", "3"), create("c", "3")).await;
    assert_eq!(kind(refused.map(|_| ())), ErrorKind::AlreadyExists);
    let then = put_pair(&*store, create("a/2", "4"), create("b/1", "4")).await.unwrap().last();
    assert_eq!(kind(then), ErrorKind::AlreadyExists);
    let swap = put_of("a/1", "5", PutMode::Match(first.etag.clone()));
    let lost = put_of("a/2", "5", PutMode::Match(first.etag));
    assert_eq!(kind(put_pair(&*store, swap, lost).await.unwrap().last()), ErrorKind::Precondition);
    let there = list_all(&*store, "").await;
    assert_eq!(there, ["a/1", "a/2", "b/1"]);
    for (at, bytes) in [("a/1", "5"), ("a/2", "4"), ("b/1", "2")] {
        assert_eq!(store.get(&key(at)).await.unwrap().bytes, bytes, "{at}");
    }
}

/// Pairs that meet, in whatever order they name their keys, all come to an end, and one creates
/// what they all want.
pub async fn of_sixteen_pairs_of_puts_one_wins(store: Arc<dyn Store>) {
    let shared = store.clone();
    let won = sixteen(move |number| {
        let store = shared.clone();
        async move {
            let wanted = put_of("b/shared", "1", PutMode::Create);
            let own = put_of(&format!("a/{number}"), "2", PutMode::Overwrite);
            match number % 2 {
                0 => put_pair(&*store, own, wanted).await.is_ok_and(|then| then.last().is_ok()),
                _ => put_pair(&*store, wanted, own).await.is_ok(),
            }
        }
    })
    .await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    for number in (0..16).step_by(2) {
        assert_eq!(store.get(&key(&format!("a/{number}"))).await.unwrap().bytes, "2");
    }
}

/// `Overwrite` writes whatever is there, and the next read sees it.
pub async fn overwrite_is_visible_at_once(store: Arc<dyn Store>) {
    for bytes in ["first", "second", "3"] {
        let written = store.put(&key("a/b"), bytes.into(), PutMode::Overwrite).await.unwrap();
        let record = store.get(&key("a/b")).await.unwrap();
        assert_eq!(record.bytes, bytes);
        assert_eq!(record.etag, written.etag);
        assert_eq!(store.head(&key("a/b")).await.unwrap().size_bytes, bytes.len() as u64);
    }
}

/// Writes of different bytes never share an etag, however close in time and length.
pub async fn different_bytes_have_different_etags(store: Arc<dyn Store>) {
    let mut seen = std::collections::HashSet::new();
    for n in 0..100 {
        let bytes = format!("{n:03}");
        let written = store.put(&key("a"), bytes.into(), PutMode::Overwrite).await.unwrap();
        assert!(seen.insert(written.etag), "write {n} repeats an etag");
    }
}

/// Of sixteen `Create`s at once exactly one wins, and its bytes are there.
pub async fn of_sixteen_creates_one_wins(store: Arc<dyn Store>) {
    let shared = store.clone();
    let outcomes = sixteen(move |n| {
        let store = shared.clone();
        async move { (n, store.put(&key("new/folder/a"), vec![n].into(), PutMode::Create).await) }
    })
    .await;
    let winner = only_winner(outcomes, ErrorKind::AlreadyExists);
    assert_eq!(store.get(&key("new/folder/a")).await.unwrap().bytes, vec![winner]);
}

/// Of sixteen swaps of one version exactly one wins, and its bytes are there.
pub async fn of_sixteen_swaps_one_wins(store: Arc<dyn Store>) {
    let etag = store.put(&key("a"), "old".into(), PutMode::Create).await.unwrap().etag;
    let shared = store.clone();
    let outcomes = sixteen(move |n| {
        let (store, mode) = (shared.clone(), PutMode::Match(etag.clone()));
        async move { (n, store.put(&key("a"), vec![n].into(), mode).await) }
    })
    .await;
    let winner = only_winner(outcomes, ErrorKind::Precondition);
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, vec![winner]);
}

/// Of sixteen deletes of one version exactly one wins.
pub async fn of_sixteen_deletes_of_a_version_one_wins(store: Arc<dyn Store>) {
    let etag = store.put(&key("a"), "old".into(), PutMode::Create).await.unwrap().etag;
    let shared = store.clone();
    let outcomes = sixteen(move |n| {
        let (store, etag) = (shared.clone(), etag.clone());
        async move { (n, store.delete(&key("a"), Some(&etag)).await) }
    })
    .await;
    only_winner(outcomes, ErrorKind::Precondition);
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
}

fn only_winner<T: std::fmt::Debug>(outcomes: Vec<(u8, Result<T>)>, loss: ErrorKind) -> u8 {
    let mut winners = Vec::new();
    for (n, outcome) in outcomes {
        match outcome {
            Ok(_) => winners.push(n),
            Err(error) => assert_eq!(error.kind(), loss),
        }
    }
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    winners.remove(0)
}

/// Sixteen writers that each add one by compare-and-swap, again after each loss, end at sixteen.
pub async fn counted_swaps_lose_no_update(store: Arc<dyn Store>) {
    put(&*store, "counter", "0").await;
    let shared = store.clone();
    sixteen(move |_| add_one(shared.clone())).await;
    assert_eq!(store.get(&key("counter")).await.unwrap().bytes, "16");
}

async fn add_one(store: Arc<dyn Store>) {
    for _ in 0..1000 {
        let record = store.get(&key("counter")).await.unwrap();
        let count: u64 = std::str::from_utf8(&record.bytes).unwrap().parse().unwrap();
        let next = Bytes::from((count + 1).to_string());
        match store.put(&key("counter"), next, PutMode::Match(record.etag)).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Precondition),
        }
    }
    panic!("a writer never won");
}

/// No reader sees a half-written record, nor an etag of other bytes.
pub async fn no_reader_sees_half_a_write(store: Arc<dyn Store>) {
    let versions: Vec<Bytes> = (1..=4u8).map(|n| vec![n; 40_000 * usize::from(n)].into()).collect();
    store.put(&key("a"), versions.first().unwrap().clone(), PutMode::Create).await.unwrap();
    let writer = tokio::spawn(write_in_turn(store.clone(), versions.clone()));
    let mut seen = std::collections::HashMap::<ETag, Bytes>::new();
    while !writer.is_finished() {
        let record = store.get(&key("a")).await.unwrap();
        assert!(versions.contains(&record.bytes), "a mix of {} bytes", record.bytes.len());
        let earlier = seen.insert(record.etag, record.bytes.clone());
        assert!(earlier.is_none_or(|bytes| bytes == record.bytes));
    }
    writer.await.unwrap();
}

async fn write_in_turn(store: Arc<dyn Store>, versions: Vec<Bytes>) {
    for bytes in versions.iter().cycle().take(40) {
        store.put(&key("a"), bytes.clone(), PutMode::Overwrite).await.unwrap();
    }
}

/// A delete without a version removes what is there; an absent key is `Ok`.
pub async fn delete_removes_whatever_is_there(store: Arc<dyn Store>) {
    put(&*store, "a/b", "bytes").await;
    for absent in ["absent", "a/absent", "a/b/below", "absent/absent", "a"] {
        store.delete(&key(absent), None).await.unwrap();
    }
    assert_eq!(store.get(&key("a/b")).await.unwrap().bytes, "bytes");
    store.delete(&key("a/b"), None).await.unwrap();
    assert_eq!(kind(store.get(&key("a/b")).await), ErrorKind::NotFound);
    store.delete(&key("a/b"), None).await.unwrap();
}

/// A delete of a version removes only that version; any other, or absence, is `Precondition`.
pub async fn delete_of_a_version_keeps_others(store: Arc<dyn Store>) {
    let old = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap().etag;
    let new = store.put(&key("a"), "2".into(), PutMode::Overwrite).await.unwrap().etag;
    assert_eq!(kind(store.delete(&key("a"), Some(&old)).await), ErrorKind::Precondition);
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "2");
    store.delete(&key("a"), Some(&new)).await.unwrap();
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
    assert_eq!(kind(store.delete(&key("a"), Some(&new)).await), ErrorKind::Precondition);
    assert_eq!(kind(store.delete(&key("x/y"), Some(&new)).await), ErrorKind::Precondition);
}

/// A key that was deleted can be created again.
pub async fn deleted_key_can_be_created_again(store: Arc<dyn Store>) {
    for bytes in ["first", "second", "third"] {
        put(&*store, "deep/down/a", bytes).await;
        assert_eq!(store.get(&key("deep/down/a")).await.unwrap().bytes, bytes);
        store.delete(&key("deep/down/a"), None).await.unwrap();
        assert!(list_all(&*store, "").await.is_empty());
    }
}

/// Writers that create and delete in one folder, so that it is empty ever again, all succeed.
pub async fn creates_and_deletes_of_neighbours_do_not_disturb(store: Arc<dyn Store>) {
    let shared = store.clone();
    sixteen(move |n| come_and_go(shared.clone(), format!("deep/{}/down/{n}", n % 2), 20)).await;
    assert!(list_all(&*store, "").await.is_empty());
}

pub(super) async fn come_and_go(store: Arc<dyn Store>, name: String, times: usize) {
    for _ in 0..times {
        put(&*store, &name, name.clone()).await;
        assert_eq!(store.get(&key(&name)).await.unwrap().bytes, name);
        store.delete(&key(&name), None).await.unwrap();
    }
}

/// `delete_many` removes all it names and does not mind absent ones.
pub async fn delete_many_ignores_absent_keys(store: Arc<dyn Store>) {
    for name in ["a/1", "a/2", "b/1", "c"] {
        put(&*store, name, "bytes").await;
    }
    let doomed = ["a/1", "absent", "b/1", "a/absent", "c/below", "a/1"].map(key);
    store.delete_many(&doomed).await.unwrap();
    assert_eq!(list_all(&*store, "").await, ["a/2", "c"]);
    store.delete_many(&[]).await.unwrap();
}

/// `get` returns up to [`RECORD_BYTES_MAX`] bytes; of a larger object it says `TooLarge`.
pub async fn largest_record_is_read_and_one_more_byte_is_too_large(store: Arc<dyn Store>) {
    let largest = usize::try_from(RECORD_BYTES_MAX).unwrap();
    put(&*store, "largest", vec![1; largest]).await;
    put(&*store, "larger", vec![2; largest + 1]).await;
    assert_eq!(store.get(&key("largest")).await.unwrap().bytes, vec![1; largest]);
    assert_eq!(kind(store.get(&key("larger")).await), ErrorKind::TooLarge);
    assert_eq!(read_whole(&*store, "larger").await, vec![2; largest + 1]);
}

/// An object without a byte is there all the same.
pub async fn empty_object_is_an_object(store: Arc<dyn Store>) {
    put(&*store, "empty", "").await;
    assert!(store.get(&key("empty")).await.unwrap().bytes.is_empty());
    assert_eq!(store.head(&key("empty")).await.unwrap().size_bytes, 0);
    assert!(read_range(&*store, "empty", 0, 0).await.is_empty());
    assert_eq!(list_all(&*store, "").await, ["empty"]);
    let again = store.put(&key("empty"), "".into(), PutMode::Create).await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
}

/// The longest key, the longest component, every character, and names that differ only in case.
pub async fn every_valid_key_works(store: Arc<dyn Store>) {
    let long = "x".repeat(crate::COMPONENT_BYTES_MAX);
    let characters: String =
        (b'!'..=b'~').filter(|b| !b"/\\".contains(b)).map(char::from).collect();
    let mut all = vec![
        format!("{long}/{long}/{long}/{}/z", long.strip_prefix('x').unwrap()),
        format!("c/{characters}"),
        "case/V1".to_owned(),
        "case/v1".to_owned(),
        "percent/%2e%2e%2fa".to_owned(),
    ];
    assert_eq!(all.first().unwrap().len(), crate::KEY_BYTES_MAX);
    for name in &all {
        put(&*store, name, name.clone()).await;
    }
    for name in &all {
        assert_eq!(store.get(&key(name)).await.unwrap().bytes, *name);
        assert_eq!(list_all(&*store, name).await, std::slice::from_ref(name));
    }
    all.sort();
    assert_eq!(list_all(&*store, "").await, all);
}

/// The two times of one response are of one clock: an object is not younger than new.
pub async fn age_is_not_negative(store: Arc<dyn Store>) {
    // S3 tells times in whole seconds.
    let slack = Duration::from_secs(1);
    let written = store.put(&key("a"), "bytes".into(), PutMode::Create).await.unwrap();
    let record = store.get(&key("a")).await.unwrap();
    let stat = store.head(&key("a")).await.unwrap();
    assert!(record.date + slack >= record.last_modified);
    assert!(stat.date + slack >= stat.last_modified);
    assert!(record.date + slack >= written.date);
    assert!(record.last_modified <= written.date + slack);
    assert_eq!(record.last_modified, stat.last_modified);
}
