//! Clauses about streams of bulk objects.

use futures::StreamExt;

use super::*;

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251).to_le_bytes()[0]).collect()
}

/// A stream gives the bytes of its range, no more and no fewer.
pub async fn stream_gives_the_range(store: Arc<dyn Store>) {
    let bytes = pattern(1000);
    put(&*store, "a", bytes.clone()).await;
    for (start, end) in [(0, 1000), (0, 1), (1, 1000), (999, 1000), (250, 751)] {
        let wanted = bytes.get(start..end).unwrap();
        assert_eq!(read_range(&*store, "a", start as u64, end as u64).await, wanted);
    }
}

/// A range that ends or starts beyond the object, or ends before it starts, is `OutOfRange`.
pub async fn range_beyond_the_end_is_out_of_range(store: Arc<dyn Store>) {
    put(&*store, "a", "12345").await;
    for (start, end) in [(0, 6), (5, 6), (6, 6), (3, 2), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        let read = store.read(&key("a"), ByteRange { start, end }).await;
        assert_eq!(
            read.err().map(|error| error.kind()),
            Some(ErrorKind::OutOfRange),
            "{start}..{end}"
        );
    }
}

/// An empty range within an object is an empty stream, at its end too.
pub async fn empty_range_is_an_empty_stream(store: Arc<dyn Store>) {
    put(&*store, "a", "12345").await;
    for at in [0, 3, 5] {
        assert!(read_range(&*store, "a", at, at).await.is_empty());
    }
}

/// An object of many chunks streams whole and in order, from any offset.
pub async fn large_object_streams_whole(store: Arc<dyn Store>) {
    let bytes = pattern(3_000_001);
    put(&*store, "a", bytes.clone()).await;
    assert_eq!(read_whole(&*store, "a").await, bytes);
    assert_eq!(read_range(&*store, "a", 123_457, 2_999_999).await, bytes[123_457..2_999_999]);
}

/// A stream that is dropped half read leaves the object, and other streams of it, as they are.
pub async fn dropped_stream_harms_nothing(store: Arc<dyn Store>) {
    let bytes = pattern(3_000_001);
    put(&*store, "a", bytes.clone()).await;
    let range = ByteRange { start: 0, end: bytes.len() as u64 };
    let mut dropped = store.read(&key("a"), range).await.unwrap();
    let kept = store.read(&key("a"), range).await.unwrap();
    let first = dropped.next().await.unwrap().unwrap();
    assert!(!first.is_empty() && bytes.starts_with(&first));
    drop(dropped);
    assert_eq!(kept.try_collect::<Vec<Bytes>>().await.unwrap().concat(), bytes);
}
