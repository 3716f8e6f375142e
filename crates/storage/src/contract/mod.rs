//! The contract of [`Store`] as tests: one function per clause, stamped on every store.
//!
//! A function takes an empty store and panics if the clause does not hold.
//! [`contract_tests!`](crate::contract_tests) makes a test of each. A clause that holds only
//! where the state lives in one process says so and asks [`Store::capabilities`].

#![allow(clippy::unwrap_used)]

mod listing;
mod multipart;
mod reading;
mod records;

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

pub use listing::*;
pub use multipart::*;
pub use reading::*;
pub use records::*;

use crate::{
    ByteRange, ErrorKind, Key, ListPage, ListRequest, Multipart, Part, Put, PutMode, Result, Store,
};

/// A store for one test, with what must live as long as it (a temporary folder, a server).
#[derive(Debug)]
pub struct ContractStore {
    /// The store; empty.
    pub store: Arc<dyn Store>,
    keep: Box<dyn Any + Send>,
}

impl ContractStore {
    /// A store that needs `keep` as long as it is used.
    pub fn new(store: Arc<dyn Store>, keep: impl Any + Send) -> Self {
        Self { store, keep: Box::new(keep) }
    }

    /// Runs one clause, then drops the store before what it needs.
    pub async fn check<F: Future<Output = ()>>(self, clause: impl FnOnce(Arc<dyn Store>) -> F) {
        let Self { store, keep } = self;
        clause(store).await;
        drop(keep);
    }
}

impl<S: Store> From<S> for ContractStore {
    fn from(store: S) -> Self {
        Self::new(Arc::new(store), ())
    }
}

/// Makes one test of each clause. The expression is evaluated anew for each test, may `.await`,
/// and gives a [`ContractStore`](crate::contract::ContractStore) or a [`Store`](crate::Store). The caller
/// needs tokio with `macros` and `rt-multi-thread`.
///
/// ```text
/// mod memory {
///     jreg_storage::contract_tests!(jreg_storage::MemoryStore::new());
/// }
/// ```
#[macro_export]
macro_rules! contract_tests {
    ($make:expr) => {
        $crate::contract_tests! { @each $make =>
            absent_keys_are_not_found
            created_record_is_read_back
            create_refuses_a_taken_key
            match_replaces_only_its_version
            match_refuses_an_absent_key
            overwrite_is_visible_at_once
            of_two_puts_the_second_needs_the_first
            of_sixteen_pairs_of_puts_one_wins
            different_bytes_have_different_etags
            of_sixteen_creates_one_wins
            of_sixteen_swaps_one_wins
            of_sixteen_deletes_of_a_version_one_wins
            counted_swaps_lose_no_update
            no_reader_sees_half_a_write
            delete_removes_whatever_is_there
            delete_of_a_version_keeps_others
            deleted_key_can_be_created_again
            creates_and_deletes_of_neighbours_do_not_disturb
            delete_many_ignores_absent_keys
            largest_record_is_read_and_one_more_byte_is_too_large
            empty_object_is_an_object
            every_valid_key_works
            age_is_not_negative
            stream_gives_the_range
            range_beyond_the_end_is_out_of_range
            empty_range_is_an_empty_stream
            large_object_streams_whole
            dropped_stream_harms_nothing
            listing_agrees_with_a_plain_filter
            listing_shows_sizes_and_times
            unknown_prefix_is_an_empty_page
            deleted_keys_are_not_listed
            pages_join_without_gap_or_repetition
            pages_of_small_limits_join
            overwritten_key_is_always_listed
            key_is_listed_while_siblings_come_and_go
            upload_is_invisible_until_completed
            completion_is_one_of_a_sequence_of_changes
            staged_uploads_are_those_that_are_not_completed
            parts_may_be_sent_in_any_order_and_at_once
            completed_object_is_the_recorded_parts_only
            resumed_upload_continues_after_its_recorded_parts
            resumed_upload_drops_what_was_not_recorded
            upload_resumed_by_its_own_claim_continues
            superseded_claim_never_spoils_an_object_unnoticed
            resume_of_a_lost_part_is_not_found
            completion_of_a_lost_part_is_not_found
            aborted_upload_is_not_found
            completed_twice_is_not_found_and_the_object_intact
            abort_after_completion_leaves_the_object
            uploads_do_not_meet
            growing_file_shows_every_stored_part
        }
    };
    (@each $make:expr => $($clause:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                $crate::contract::ContractStore::from($make).check($crate::contract::$clause).await;
            }
        )*
    };
}

fn key(key: &str) -> Key {
    key.parse().unwrap()
}

async fn put(store: &dyn Store, name: &str, bytes: impl Into<Bytes>) {
    store.put(&key(name), bytes.into(), PutMode::Create).await.unwrap();
}

async fn read_range(store: &dyn Store, name: &str, start: u64, end: u64) -> Vec<u8> {
    let stream = store.read(&key(name), ByteRange { start, end }).await.unwrap();
    stream.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

async fn read_whole(store: &dyn Store, name: &str) -> Vec<u8> {
    let size_bytes = store.head(&key(name)).await.unwrap().size_bytes;
    read_range(store, name, 0, size_bytes).await
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn names(page: &ListPage) -> Vec<String> {
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}

async fn list_all(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut request = ListRequest::below(prefix);
    let mut all = Vec::new();
    loop {
        let page = store.list(&request).await.unwrap();
        all.extend(names(&page));
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return all,
        }
    }
}

/// Runs the same thing sixteen times at once and gives the responses.
async fn sixteen<T, F>(run: impl Fn(u8) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tasks: Vec<_> = (0..16).map(|n| tokio::spawn(run(n))).collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

/// The bytes of part `index`, of a size that the store takes, different for each `seed`.
fn part_bytes(store: &dyn Store, index: u64, seed: u8) -> Bytes {
    let rules = store.capabilities().parts;
    let any_size = !rules.uniform;
    let size = if any_size { 1000 + index } else { rules.part_bytes };
    let byte = seed.wrapping_add(index.to_le_bytes()[0]);
    vec![byte; usize::try_from(size).unwrap()].into()
}

/// Sends the next part and records it.
async fn append(store: &dyn Store, upload: &mut Multipart, bytes: Bytes) -> Part {
    let part = store.put_part(upload, upload.size_bytes(), bytes).await.unwrap();
    upload.record(part.clone());
    part
}
