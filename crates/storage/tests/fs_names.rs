//! Listings of folders whose names are cached: page by page the same as the reference's.

use jreg_storage::{FsOptions, FsStore, Key, ListRequest, MemoryStore, PutMode, Store};

use crate::numbers::Numbers;

/// So many names are more than are read anew each time.
const NAMES: u64 = 300;

impl Numbers {
    /// A key among files and folders whose names are prefixes of each other.
    fn key(&mut self) -> String {
        let number = self.below(NAMES);
        match self.below(4) {
            0 => format!("r/t/{number}/x"),
            1 => format!("r/t/{number}-y"),
            2 => format!("r/t-{number}"),
            _ => format!("r/t/{number}.z"),
        }
    }

    fn request(&mut self) -> ListRequest {
        let prefixes = ["", "r/", "r/t", "r/t/", "r/t/1", "r/t/12/", "r/t/2-", "r/u"];
        let prefix = prefixes[usize::try_from(self.below(8)).unwrap()];
        let start_after = (self.below(3) > 0).then(|| {
            let key = self.key();
            let end = usize::try_from(self.below(key.len() as u64 + 1)).unwrap();
            key.get(..end).unwrap().to_owned()
        });
        ListRequest {
            start_after: start_after.filter(|after| !after.is_empty()),
            limit: usize::try_from(1 + self.below(40)).unwrap(),
            delimiter: self.below(2) == 0,
            ..ListRequest::below(prefix)
        }
    }
}

/// Keys, prefixes and where the next page begins.
async fn page(store: &dyn Store, request: &ListRequest) -> (Vec<Key>, Vec<String>, Option<String>) {
    let page = store.list(request).await.unwrap();
    (page.entries.into_iter().map(|entry| entry.key).collect(), page.prefixes, page.next)
}

#[tokio::test]
async fn pages_are_those_of_the_reference_while_names_come_and_go() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    let reference = MemoryStore::new();
    let mut numbers = Numbers(1);
    let mut cut = 0;
    for step in 0..3000 {
        let key: Key = numbers.key().parse().unwrap();
        if numbers.below(3) > 0 {
            store.put(&key, "1".into(), PutMode::Overwrite).await.unwrap();
            reference.put(&key, "1".into(), PutMode::Overwrite).await.unwrap();
        } else {
            store.delete(&key, None).await.unwrap();
            reference.delete(&key, None).await.unwrap();
        }
        if step % 3 == 0 {
            let request = numbers.request();
            let expected = page(&reference, &request).await;
            cut += u32::from(expected.2.is_some());
            assert_eq!(page(&store, &request).await, expected, "{request:?} at {step}");
        }
    }
    assert!(cut > 100, "{cut} pages of many were cut");
}

#[tokio::test]
async fn a_page_of_many_names_is_followed_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    for number in 0..NAMES {
        let key: Key = format!("t/{number:04}").parse().unwrap();
        store.put(&key, "1".into(), PutMode::Create).await.unwrap();
    }
    for _ in 0..2 {
        let mut request = ListRequest { limit: 7, ..ListRequest::below("t/") };
        let mut found = Vec::new();
        loop {
            let page = store.list(&request).await.unwrap();
            found.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, (0..NAMES).map(|number| format!("t/{number:04}")).collect::<Vec<_>>());
    }
}
