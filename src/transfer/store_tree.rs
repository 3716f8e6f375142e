//! [`StoreTree`]: the objects of a store as files of a source of images.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_archive::{ArchiveError, Result, SourceContent, SourcePlace, SourceTree};
use jreg_storage::{ByteRange, Key, ListRequest, S3Url, Store};

/// How many names a page of a listing has.
const NAMES_PER_PAGE: usize = 1000;

/// Where the store is.
#[derive(Clone, Debug)]
pub(super) enum StorePlace {
    Folder(PathBuf),
    Bucket(Box<S3Url>),
}

/// The objects of a store as files: a folder or a bucket.
#[derive(Clone, Debug)]
pub(super) struct StoreTree {
    store: Arc<dyn Store>,
    place: StorePlace,
}

impl StoreTree {
    pub(super) fn new(store: Arc<dyn Store>, place: StorePlace) -> Self {
        Self { store, place }
    }
}

impl StorePlace {
    pub(super) fn of(&self, key: &Key) -> SourcePlace {
        match self {
            Self::Folder(folder) => SourcePlace::File(folder.join(key.as_str())),
            Self::Bucket(url) => SourcePlace::Object {
                service: url.service().to_owned(),
                bucket: url.bucket.clone(),
                key: match url.prefix.as_str() {
                    "" => key.to_string(),
                    prefix => format!("{prefix}/{key}"),
                },
            },
        }
    }
}

fn failed(what: &str) -> impl FnOnce(jreg_storage::Error) -> ArchiveError + '_ {
    move |source| ArchiveError::Io { what: what.to_owned(), source: io::Error::other(source) }
}

#[async_trait]
impl SourceTree for StoreTree {
    async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let mut request = ListRequest {
            delimiter: true,
            limit: NAMES_PER_PAGE,
            ..ListRequest::below(folder.to_owned())
        };
        let mut names = Vec::new();
        loop {
            let page = self.store.list(&request).await.map_err(failed(folder))?;
            let below = |name: &str| name.strip_prefix(folder).map(str::to_owned);
            names.extend(page.entries.iter().filter_map(|entry| below(entry.key.as_str())));
            names.extend(page.prefixes.iter().filter_map(|prefix| below(prefix)));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        names.sort();
        Ok(names)
    }

    async fn open(&self, path: &str) -> Result<Option<SourceContent>> {
        let Ok(key) = path.parse::<Key>() else { return Ok(None) };
        let Some(size_bytes) = self.size(path).await? else { return Ok(None) };
        let (range, place) = (ByteRange { start: 0, end: size_bytes }, self.place.of(&key));
        let store = Arc::clone(&self.store);
        // Only when the first byte is wanted: it may be copied where it lies.
        let reading = async move { store.read(&key, range).await };
        let stream = stream::once(reading).try_flatten().map_err(io::Error::other).boxed();
        Ok(Some(SourceContent { size_bytes, place: Some(place), stream }))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let Ok(key) = path.parse::<Key>() else { return Ok(None) };
        match self.store.head(&key).await {
            Ok(stat) => Ok(Some(stat.size_bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(path)(error)),
        }
    }
}
