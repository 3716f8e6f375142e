//! Referrers: which manifests have a given subject.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Descriptor, Digest};
use jreg_storage::Listed;

use crate::core::Core;
use crate::keys;
use crate::record::{ReferrerEntry, Versioned};
use crate::{Page, PageRequest, Repository, Result};

/// The most bytes of entries in one page: as much as a client must accept of a manifest.
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Repository {
    /// The descriptors of the manifests whose subject is `subject` (end-12), in the byte order of
    /// their digests; with a filter only those of that artifact type. A page may end early, with
    /// a next one, because the descriptors are large, or because few of those that were looked at are
    /// of the type: one request looks at [`page_items_max`](crate::Limits) at the most.
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
    ) -> Result<Page<Descriptor>> {
        let prefix = keys::referrers(&self.name, subject);
        let mut looks_left = self.core.options.limits.page_items_max;
        let limit = page.limit.min(looks_left);
        // With a filter nobody knows how many it takes to find so many.
        let at_once = artifact_type.map_or(limit, |_| looks_left);
        let mut after = page.last.as_ref().map(|last| format!("{prefix}{last}"));
        let mut found = Page { items: Vec::new(), next: None };
        let mut room_bytes = PAGE_BYTES_MAX;
        while found.items.len() < limit && looks_left > 0 {
            let at_once = at_once.min(looks_left);
            let mut listing = self.core.list(prefix.clone(), after.take(), at_once).await?;
            looks_left -= listing.entries.len().min(looks_left);
            let fitting = fitting(&listing.entries, &mut room_bytes);
            listing.more |= fitting < listing.entries.len();
            listing.entries.truncate(fitting);
            let read = self.core.referrer_entries(&listing.entries).await?;
            let is_full = room_bytes == 0;
            for (index, (listed, entry)) in listing.entries.iter().zip(read).enumerate() {
                found.next = keys::last(&listed.key).map(str::to_owned);
                // One that is gone by now was deleted while we read.
                if let Some(descriptor) = entry
                    && artifact_type.is_none_or(|wanted| is_of(&descriptor, wanted))
                {
                    found.items.push(Arc::unwrap_or_clone(descriptor));
                }
                if found.items.len() == limit {
                    listing.more |= index + 1 < listing.entries.len();
                    break;
                }
            }
            if !listing.more {
                found.next = None;
                break;
            }
            if is_full {
                break;
            }
            after = listing.entries.last().map(|last| last.key.to_string());
        }
        Ok(found)
    }
}

impl Core {
    /// The entries that were just listed, in their order; nothing for one that is gone by now.
    async fn referrer_entries(&self, listed: &[Listed]) -> Result<Vec<Option<Arc<Descriptor>>>> {
        let mut entries = self.referrers.find(listed);
        let is_unknown = |index: &usize| entries[*index].is_none();
        let unknown: Vec<_> = (0..listed.len()).filter(is_unknown).collect();
        let keys = unknown.iter().map(|index| listed[*index].key.clone());
        let reads = keys.map(|key| self.read_large::<ReferrerEntry>(key));
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let read: Vec<_> = stream::iter(reads).buffered(self.wave_width()).try_collect().await?;
        for (index, entry) in unknown.into_iter().zip(read) {
            let Some(Versioned { value, etag, .. }) = entry else { continue };
            let descriptor = Arc::new(value.descriptor);
            self.referrers.keep(&listed[index], &etag, &descriptor);
            entries[index] = Some(descriptor);
        }
        Ok(entries)
    }
}

/// How many entries, one at least, fit the room that is left; takes it up.
fn fitting(entries: &[Listed], room_bytes: &mut u64) -> usize {
    for (index, entry) in entries.iter().enumerate() {
        match room_bytes.checked_sub(entry.size_bytes) {
            Some(left) => *room_bytes = left,
            None => {
                *room_bytes = 0;
                return index.max(1);
            }
        }
    }
    entries.len()
}

fn is_of(descriptor: &Descriptor, artifact_type: &str) -> bool {
    descriptor.artifact_type.as_deref() == Some(artifact_type)
}
