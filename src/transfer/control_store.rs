//! [`ControlStore`]: the storage of the process that serves a folder, to be read over its control socket.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use jreg_storage::{
    ByteRange, ByteStream, ETag, Error, ErrorKind, Key, ListPage, ListRequest, Listed, Multipart,
    OpenFile, Part, PartRules, Presign, PutMode, Record, Result, Stat, Store, StoreCapabilities,
    Written,
};

use super::control::{ControlClient, RawResponse};
use crate::operator::{ListedPage, ObjectInfo, RECORD_HEADER, STORE_PATH, StoreRequest};

/// Rules of a store that takes no parts.
const NO_PARTS: PartRules = PartRules { part_bytes: 1024 * 1024, uniform: false, parts_max: 1 };

/// A store of which everything that changes something is refused.
#[derive(Debug)]
pub struct ControlStore {
    client: Arc<ControlClient>,
}

impl ControlStore {
    pub fn new(client: Arc<ControlClient>) -> Self {
        Self { client }
    }

    async fn ask(&self, what: &str, request: &StoreRequest) -> Result<RawResponse> {
        let body = serde_json::to_vec(request).expect("a request has only string keys");
        let sent = self.client.post_raw(STORE_PATH, body.into()).await;
        let response =
            sent.map_err(|error| Error::with_source(ErrorKind::Unavailable, what, error))?;
        let kind = match response.status {
            StatusCode::OK => return Ok(response),
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::RANGE_NOT_SATISFIABLE => ErrorKind::OutOfRange,
            StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::TooLarge,
            _ => ErrorKind::Unavailable,
        };
        let why = response.text().await;
        Err(Error::with_source(kind, what, why))
    }

    /// What is known of an object, and its bytes if they were asked for.
    async fn object(&self, key: &Key, request: &StoreRequest) -> Result<(ObjectInfo, Bytes)> {
        let response = self.ask(key.as_str(), request).await?;
        let info = response.headers.get(RECORD_HEADER);
        let info = info.and_then(|info| serde_json::from_slice(info.as_bytes()).ok());
        let info = info.ok_or_else(|| Error::new(ErrorKind::Unavailable, key))?;
        let bytes = response.bytes().await;
        let bytes =
            bytes.map_err(|error| Error::with_source(ErrorKind::Unavailable, key, error))?;
        Ok((info, bytes))
    }
}

fn refuse<T>(key: &Key) -> Result<T> {
    Err(Error::new(ErrorKind::ReadOnly, key))
}

#[async_trait]
impl Store for ControlStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            is_read_only: true,
            is_remote: false,
            ..StoreCapabilities::remote(NO_PARTS)
        }
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        let (info, bytes) = self.object(key, &StoreRequest::Get { key: key.clone() }).await?;
        let ObjectInfo { etag, last_modified, date, .. } = info;
        Ok(Record { bytes, etag: ETag::new(etag.unwrap_or_default()), last_modified, date })
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        let (info, _) = self.object(key, &StoreRequest::Head { key: key.clone() }).await?;
        let ObjectInfo { size_bytes, last_modified, date, .. } = info;
        Ok(Stat { size_bytes, last_modified, date })
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        let ByteRange { start, end } = range;
        let request = StoreRequest::Read { key: key.clone(), start, end };
        let response = self.ask(key.as_str(), &request).await?;
        let key = key.clone();
        let failed = move |error| Error::with_source(ErrorKind::Unavailable, &key, error);
        Ok(response.into_stream().map(move |chunk| chunk.map_err(&failed)).boxed())
    }

    async fn put(&self, key: &Key, _: Bytes, _: PutMode) -> Result<Written> {
        refuse(key)
    }

    async fn delete(&self, key: &Key, _: Option<&ETag>) -> Result<()> {
        refuse(key)
    }

    async fn delete_many(&self, _: &[Key]) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "several keys"))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let ListRequest { prefix, start_after, delimiter, limit } = request.clone();
        let what = prefix.clone();
        let request = StoreRequest::List { prefix, start_after, delimiter, limit };
        let response = self.ask(&what, &request).await?;
        let failed = |why: String| Error::with_source(ErrorKind::Unavailable, &what, why);
        let bytes = response.bytes().await.map_err(|error| failed(error.to_string()))?;
        let page: ListedPage =
            serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        let entries = page.entries.into_iter().map(|entry| Listed {
            key: entry.key,
            size_bytes: entry.size_bytes,
            last_modified: entry.last_modified,
            etag: entry.etag.map(ETag::new),
        });
        let (prefixes, next) = (page.prefixes, page.next);
        Ok(ListPage { entries: entries.collect(), prefixes, next, date: page.date })
    }

    async fn create_multipart(&self, key: &Key, _: u64, _: u64) -> Result<Multipart> {
        refuse(key)
    }

    async fn resume_multipart(&self, upload: &Multipart, _: u64) -> Result<Multipart> {
        refuse(&upload.key)
    }

    async fn put_part(&self, upload: &Multipart, _: u64, _: Bytes) -> Result<Part> {
        refuse(&upload.key)
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        refuse(&upload.key)
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        refuse(&upload.key)
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        refuse(&upload.key)
    }

    async fn file(&self, _: &Key) -> Result<Option<Arc<OpenFile>>> {
        Ok(None)
    }

    async fn presign(&self, _: &Key, _: &Presign) -> Result<Option<String>> {
        Ok(None)
    }
}
