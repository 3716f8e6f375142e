//! Referrers: which manifests have a given subject.
//!
//! A descriptor repeats the annotations of its manifest, which may be megabytes of tiny ones. So it is
//! handed on as the JSON text of its record and never built in memory, and a page is bounded in
//! bytes.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jreg_oci::Digest;
use jreg_storage::{ETag, Key, ListRequest, Listed};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;

use crate::core::Core;
use crate::keys;
use crate::page::{LIST_KEYS_MAX, list_requests_max};
use crate::record::verify_checksum;
use crate::{Error, PageRequest, Referrer, Repository, Result, ResultPage};

/// The most bytes of descriptors in one page: as much as a client must accept of a manifest. A page
/// has at least one entry.
pub const REFERRERS_PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How many entries a page with a filter looks at, or as many as its limit if that is more: each may
/// take a store request to read.
pub const REFERRERS_EXAMINED_MAX: usize = 256;

/// A record as it lies in the store, with the descriptor as text.
#[derive(Deserialize)]
struct ReferrerText<'a> {
    #[serde(borrow)]
    descriptor: &'a RawValue,
}

/// What is looked at of a descriptor.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerHead {
    digest: Digest,
    #[serde(default)]
    artifact_type: Option<String>,
}

impl Referrer {
    /// Reads a record; `Err` says what is wrong with it.
    fn decode(record: &Bytes) -> Result<Self, String> {
        verify_checksum(record)?;
        let wrong = |error: serde_json::Error| error.to_string();
        let ReferrerText { descriptor } = serde_json::from_slice(record).map_err(wrong)?;
        let ReferrerHead { digest, artifact_type } =
            serde_json::from_str(descriptor.get()).map_err(wrong)?;
        let json = record.slice_ref(descriptor.get().as_bytes());
        Ok(Self { digest, artifact_type, json })
    }

    fn is_of(&self, artifact_type: &str) -> bool {
        self.artifact_type.as_deref() == Some(artifact_type)
    }
}

/// What one page may still look at.
struct PageRoom {
    entries: usize,
    bytes: u64,
}

impl PageRoom {
    /// How many of these entries fit, one at least if nothing was taken yet; takes the room up.
    fn take(&mut self, entries: &[Listed]) -> usize {
        for (index, entry) in entries.iter().enumerate() {
            let is_first = self.bytes == REFERRERS_PAGE_BYTES_MAX;
            let left = self.bytes.checked_sub(entry.size_bytes).or(is_first.then_some(0));
            let (Some(bytes), Some(entries)) = (left, self.entries.checked_sub(1)) else {
                (self.entries, self.bytes) = (0, 0);
                return index;
            };
            (self.entries, self.bytes) = (entries, bytes);
        }
        entries.len()
    }

    fn is_full(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }
}

impl Repository {
    /// The descriptors of the manifests whose subject is `subject` (end-12), in the byte order of
    /// their digests; with a filter only those of that artifact type. A page may end early, with
    /// a next one: because the descriptors are large ([`REFERRERS_PAGE_BYTES_MAX`]), or because few
    /// of the entries match the filter ([`REFERRERS_EXAMINED_MAX`]).
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error), [`Error::Damaged`](crate::Error). An unknown repository or
    /// subject has no referrers.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &PageRequest,
    ) -> Result<ResultPage<Referrer>> {
        let prefix = keys::referrers(&self.name, subject);
        let limit = page.limit.min(self.core.options.limits.page_items_max);
        let examined_max = match artifact_type {
            Some(_) => limit.max(REFERRERS_EXAMINED_MAX),
            None => limit,
        };
        let start_after = page.last.as_ref().map(|last| format!("{prefix}{last}"));
        let mut found = ResultPage { items: Vec::new(), next: None };
        if limit == 0 {
            return Ok(found);
        }
        let mut room = PageRoom { entries: examined_max, bytes: REFERRERS_PAGE_BYTES_MAX };
        let mut request =
            ListRequest { start_after, limit: examined_max, ..ListRequest::below(prefix) };
        let mut reading = None;
        for _ in 0..list_requests_max(examined_max) {
            let listing = self.core.store.list(&request).await?;
            let fitting = room.take(&listing.entries);
            let entries = listing.entries.get(..fitting).unwrap_or_default();
            let read = self.core.referrer_entries(entries, &mut reading).await?;
            for (index, (listed, entry)) in entries.iter().zip(read).enumerate() {
                // One that is gone by now was deleted while we read.
                let wanted = |entry: &Referrer| artifact_type.is_none_or(|kind| entry.is_of(kind));
                found.items.extend(entry.filter(wanted));
                if found.items.len() == limit {
                    let more = index + 1 < listing.entries.len() || listing.next.is_some();
                    found.next = name_of(listed).filter(|_| more);
                    return Ok(found);
                }
            }
            if fitting < listing.entries.len() {
                found.next = entries.last().and_then(name_of).or(found.next);
                return Ok(found);
            }
            let Some(next) = listing.next else { return Ok(ResultPage { next: None, ..found }) };
            found.next = next.rsplit('/').next().map(str::to_owned);
            if room.is_full() {
                return Ok(found);
            }
            request = ListRequest { start_after: Some(next), limit: LIST_KEYS_MAX, ..request };
        }
        Ok(found)
    }
}

/// What a page that ends with this entry names as the last.
fn name_of(listed: &Listed) -> Option<String> {
    keys::last(&listed.key).map(str::to_owned)
}

impl Core {
    /// The entries that were just listed, in their order; nothing for one that is gone by now. Those
    /// that must be read take a permit, which the caller has for as long as it has them.
    async fn referrer_entries<'a>(
        &'a self,
        listed: &[Listed],
        reading: &mut Option<SemaphorePermit<'a>>,
    ) -> Result<Vec<Option<Referrer>>> {
        let mut entries = self.referrers.find(listed);
        if reading.is_none() && entries.iter().any(Option::is_none) {
            *reading = Some(self.referrer_reads.acquire().await.map_err(|_| Error::Stopped)?);
            // Another request may have read them while this one waited.
            entries = self.referrers.find(listed);
        }
        let is_unknown = |index: &usize| entries[*index].is_none();
        let unknown: Vec<_> = (0..listed.len()).filter(is_unknown).collect();
        let keys: Vec<Key> = unknown.iter().map(|index| listed[*index].key.clone()).collect();
        let reads = keys.into_iter().map(|key| async move { self.read_referrer(&key).await });
        let read: Vec<_> =
            stream::iter(reads).buffered(self.reads_in_flight_max()).try_collect().await?;
        for (index, entry) in unknown.into_iter().zip(read) {
            let Some((referrer, etag)) = entry else { continue };
            self.referrers.keep(&listed[index], &etag, &referrer);
            entries[index] = Some(referrer);
        }
        Ok(entries)
    }

    async fn read_referrer(&self, key: &Key) -> Result<Option<(Referrer, ETag)>> {
        let record = match self.store.get(key).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (bytes, etag) = (record.bytes.len(), record.etag);
        let decode = move || Referrer::decode(&record.bytes);
        let decoded = self.compute.run(bytes, decode).await?;
        let damaged = |reason| Error::Damaged { key: key.to_string(), reason };
        Ok(Some((decoded.map_err(damaged)?, etag)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_oci::{Algorithm, Descriptor, MediaType};

    use super::*;
    use crate::record::{ReferrerEntry, StoredRecord};

    fn descriptor() -> Descriptor {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let text = serde_json::json!({ "a \"b\"": "\u{e9}\n" });
        let annotations = serde_json::from_value(text).unwrap();
        let artifact_type = Some("application/x".to_owned());
        let plain = Descriptor::new(&MediaType::OCI_IMAGE_MANIFEST, digest, 7);
        Descriptor { artifact_type, annotations, ..plain }
    }

    #[test]
    fn the_text_of_a_record_is_its_descriptor() {
        let record = ReferrerEntry { descriptor: descriptor() }.encode();
        let referrer = Referrer::decode(&record).unwrap();
        assert_eq!(referrer.digest, descriptor().digest);
        assert!(referrer.is_of("application/x") && !referrer.is_of("application/y"));
        assert_eq!(serde_json::from_slice::<Descriptor>(&referrer.json).unwrap(), descriptor());
        for damaged in [&b""[..], b"{}", b"{\"descriptor\":{}}", &record[..record.len() - 1]] {
            assert!(Referrer::decode(&Bytes::copy_from_slice(damaged)).is_err());
        }
    }

    fn listed(size_bytes: u64) -> Listed {
        let key = "a/b".parse().unwrap();
        Listed { key, size_bytes, last_modified: std::time::SystemTime::UNIX_EPOCH, etag: None }
    }

    #[test]
    fn a_page_has_room_for_one_entry_at_least_and_no_more_than_its_bytes() {
        let take = |entries, sizes: &[u64]| {
            let mut room = PageRoom { entries, bytes: REFERRERS_PAGE_BYTES_MAX };
            let listed: Vec<_> = sizes.iter().map(|size| listed(*size)).collect();
            (room.take(&listed), room.is_full())
        };
        let all = REFERRERS_PAGE_BYTES_MAX;
        for (entries, sizes, expected) in [
            (9, &[1, 2, 3][..], (3, false)),
            (2, &[1, 2, 3], (2, true)),
            (3, &[1, 2, 3], (3, true)),
            (9, &[all - 1, 1], (2, true)),
            (9, &[all - 1, 2], (1, true)),
            (9, &[all + 1, 1], (1, true)),
            (9, &[], (0, false)),
        ] {
            assert_eq!(take(entries, sizes), expected, "{sizes:?}");
        }
    }
}
