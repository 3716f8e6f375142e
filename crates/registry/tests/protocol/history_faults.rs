//! Each store call of a change fails, or its response is lost, and the client tries again; what fsck makes of
//! damaged histories and copies; and what the history of a tag costs that moved 10,000 times.

use jreg_oci::Digest;
use jreg_registry::{
    Error, FindingKind, FsckOptions, GcError, GcOptions, HISTORY_ENTRIES_MAX, NoObserver,
    PageRequest, RepairStatus, Result, TouchPolicy,
};
use jreg_storage::testing::Fault;
use jreg_storage::{ErrorKind, Key, ListRequest, PutMode, Store};

use crate::bench::{Bench, BenchStoreKind, push_of};
use crate::fsck::{check, expect, repairing};
use crate::history::{
    KINDS, all, bench, collect, delete, digest_of, history, image, push, tag, targets,
};

/// A change of tag `v1`, or of what it points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Move,
    DeleteTag,
    DeleteManifest,
    Restore,
    Purge,
}

impl Operation {
    const ALL: [Self; 5] =
        [Self::Move, Self::DeleteTag, Self::DeleteManifest, Self::Restore, Self::Purge];

    /// A tag on an image, which is deleted where the operation needs that.
    async fn set_up(self, kind: BenchStoreKind) -> Bench {
        let bench = bench(kind).await;
        push(&bench, "other", 2).await;
        push(&bench, "v1", 1).await;
        if matches!(self, Self::Restore | Self::Purge) {
            delete(&bench, &digest_of(1).to_string()).await;
        }
        bench
    }

    async fn run(self, bench: &Bench) -> Result<()> {
        let (repository, of) = (bench.repository("a"), digest_of(1));
        match self {
            Self::Move => repository.manifest_put(push_of("v1", &image(2))).await.map(|_| ()),
            Self::DeleteTag => repository.manifest_delete(&"v1".parse().unwrap(), None).await,
            Self::DeleteManifest => {
                repository.manifest_delete(&of.to_string().parse().unwrap(), None).await
            }
            Self::Restore => repository.manifest_restore(&of, true).await.map(|_| ()),
            Self::Purge => repository.manifest_purge(&of, false).await.map(|_| ()),
        }
    }

    /// What the tag has pointed to afterwards, the latest first.
    fn expected(self) -> Vec<Option<Digest>> {
        let [one, two] = [1, 2].map(|number| Some(digest_of(number)));
        match self {
            Self::Move => vec![two, one],
            Self::DeleteTag | Self::DeleteManifest | Self::Purge => vec![None, one],
            Self::Restore => vec![one.clone(), None, one],
        }
    }

    async fn check(self, bench: &Bench, what: &str) {
        assert_eq!(targets(&history(bench, "v1").await), self.expected(), "{what}");
        let repository = bench.repository("a");
        let of = digest_of(1).to_string().parse().unwrap();
        let read = repository.manifest_get(&of, TouchPolicy::Never).await;
        let is_there = matches!(self, Self::Move | Self::DeleteTag | Self::Restore);
        assert_eq!(read.is_ok(), is_there, "{what}: {read:?}");
        let copies = repository.deleted_manifests(&all()).await.unwrap().items.len();
        assert_eq!(copies, usize::from(self == Self::DeleteManifest), "{what}");
        let (done, found) = check(bench, &FsckOptions::default()).await;
        assert_eq!(done.left, 0, "{what}: {found:#?}");
    }
}

/// A fault at the n-th call, for every n.
async fn fails_at_every_call(kind: BenchStoreKind, operation: Operation, fault: fn() -> Fault) {
    for n in 1..200 {
        let bench = operation.set_up(kind).await;
        let before = bench.faults.hits();
        bench.faults.inject(fault().nth(n));
        let first = operation.run(&bench).await;
        let is_hit = bench.faults.hits() > before;
        bench.faults.heal();
        let what = format!("{operation:?} at {kind:?}, call {n}: {first:?}");
        if first.is_err() {
            match operation.run(&bench).await {
                Ok(()) => {}
                // The first has done it.
                Err(Error::ManifestUnknown { .. }) if operation != Operation::Restore => {}
                Err(error) => panic!("{what}, then {error:?}"),
            }
        }
        operation.check(&bench, &what).await;
        if !is_hit {
            assert!(n > 3, "{what}");
            return;
        }
    }
    panic!("{operation:?} never ends");
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_call_fails_is_whole_after_a_retry() {
    for kind in KINDS {
        for operation in Operation::ALL {
            fails_at_every_call(kind, operation, || Fault::fail(ErrorKind::Unavailable)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_response_is_lost_is_whole_after_a_retry() {
    for kind in KINDS {
        for operation in Operation::ALL {
            fails_at_every_call(kind, operation, || Fault::lose_response(ErrorKind::Unavailable))
                .await;
        }
    }
}

async fn overwrite(bench: &Bench, key: &Key, edit: impl Fn(&str) -> String) {
    let record = bench.faults.get(key).await.unwrap().bytes;
    let edited = edit(std::str::from_utf8(&record).unwrap());
    bench.faults.put(key, edited.into(), PutMode::Overwrite).await.unwrap();
}

#[tokio::test]
async fn a_damaged_copy_is_found_and_quarantined_so_that_gc_continues() {
    for edit in [|_: &str| "rot".to_owned(), |text: &str| text.replace(r#""n":"1""#, r#""n":"9""#)]
    {
        let bench = bench(BenchStoreKind::Remote).await;
        push(&bench, "v1", 1).await;
        delete(&bench, &digest_of(1).to_string()).await;
        let copy = bench.keys("deleted/").await.remove(0);
        overwrite(&bench, &copy, edit).await;
        let stopped = bench.registry.collect_garbage(&GcOptions::default(), &NoObserver).await;
        assert!(
            matches!(&stopped, Err(GcError::Damaged { key, .. }) if *key == copy.to_string()),
            "{stopped:?}"
        );
        let (_, found) = check(&bench, &FsckOptions::default()).await;
        expect(&found, &[(FindingKind::CopyUnreadable, &copy, RepairStatus::Possible)]);
        let (_, found) = check(&bench, &repairing()).await;
        expect(&found, &[(FindingKind::CopyUnreadable, &copy, RepairStatus::Done)]);
        assert_eq!(bench.keys("deleted/").await, []);
        assert_eq!(bench.keys("quarantine/").await.len(), 1);
        collect(&bench, GcOptions::default()).await;
        assert_eq!(check(&bench, &FsckOptions::default()).await.0.left, 0);
    }
}

#[tokio::test]
async fn a_damaged_entry_of_a_history_is_found_and_quarantined() {
    let bench = bench(BenchStoreKind::Remote).await;
    for number in [1, 2, 3] {
        push(&bench, "v1", number).await;
    }
    assert_eq!(check(&bench, &FsckOptions::default()).await.1, []);
    // The later is listed first; the other becomes a copy of it.
    let [later, earlier] = bench.keys("history/").await.try_into().unwrap();
    let record = bench.faults.get(&later).await.unwrap().bytes;
    bench.faults.put(&earlier, record, PutMode::Overwrite).await.unwrap();
    overwrite(&bench, &later, |text| text.replace("digest", "dogest")).await;
    let page = bench.repository("a").tag_history(&tag("v1"), &all()).await;
    assert!(matches!(page, Err(Error::Damaged { .. })), "{page:?}");
    let kind = FindingKind::HistoryUnreadable;
    let (_, found) = check(&bench, &repairing()).await;
    expect(&found, &[(kind, &later, RepairStatus::Done), (kind, &earlier, RepairStatus::Done)]);
    assert_eq!(targets(&history(&bench, "v1").await), [Some(digest_of(3))]);
    assert_eq!(check(&bench, &FsckOptions::default()).await.0.left, 0);
}

/// The keys of every page of a listing.
async fn all_keys(bench: &Bench, prefix: &str) -> Vec<Key> {
    let mut request = ListRequest::below(prefix);
    let mut keys = Vec::new();
    loop {
        let page = bench.faults.list(&request).await.unwrap();
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return keys,
        }
    }
}

/// What a page costs does not depend on how often the tag moved.
#[tokio::test]
async fn the_history_of_a_tag_that_moved_10_000_times() {
    const MOVES: usize = 10_000;
    const SHOWN: usize = 100;
    let bench = bench(BenchStoreKind::Remote).await;
    let repository = bench.repository("a");
    for number in 0..=MOVES {
        repository.manifest_put(push_of("v1", &image(number % 2))).await.unwrap();
    }
    let entries = all_keys(&bench, "history/").await;
    assert_eq!(entries.len(), MOVES);
    let mut bytes = 0;
    for key in entries.iter().take(SHOWN) {
        bytes += bench.faults.get(key).await.unwrap().bytes.len();
    }
    let (key_bytes, bytes) = (entries[0].as_str().len(), bytes / SHOWN);
    println!("{MOVES} moves: {MOVES} entries of {bytes} bytes with keys of {key_bytes}");
    assert!(bytes <= 400 && key_bytes <= 150, "{bytes} {key_bytes}");

    let mut last = None;
    for page in ["first", "second", "third"] {
        bench.calls.take();
        let request = PageRequest { limit: SHOWN, last: last.take() };
        let shown = repository.tag_history(&tag("v1"), &request).await.unwrap();
        let calls = bench.calls.take();
        let count = |operation| calls.iter().filter(|call| call.operation == operation).count();
        println!("{page} page of {SHOWN}: {} GET, {} LIST", count("get"), count("list"));
        assert_eq!(shown.items.len(), SHOWN);
        assert!(count("get") <= SHOWN + 1 && count("list") <= 2 && calls.len() <= SHOWN + 3);
        last = shown.next;
        assert!(last.is_some());
    }

    bench.calls.take();
    let done = collect(&bench, GcOptions::default()).await;
    let removals = bench.calls.take().iter().filter(|call| call.operation == "delete_many").count();
    println!("GC removes {} in {removals} requests", done.history.removed);
    assert_eq!(all_keys(&bench, "history/").await.len(), HISTORY_ENTRIES_MAX);
    assert_eq!(done.history.removed, (MOVES - HISTORY_ENTRIES_MAX) as u64);
    assert!(removals <= MOVES / 1000);
}
