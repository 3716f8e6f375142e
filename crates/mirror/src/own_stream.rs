//! [`OwnStream`]: a reader that reads from the mirrored registry itself, and hashes what it hands on.

use std::collections::VecDeque;

use bytes::Bytes;
use jreg_client::{
    BlobRequest, ByteRange as UpstreamRange, UpstreamBlob, UpstreamClient, UpstreamError,
    UpstreamErrorKind,
};
use jreg_oci::{Digest, Hasher, RepositoryName};

use crate::flight::TAIL_BYTES;

/// How the bytes of an own request are verified.
#[derive(Debug)]
pub(crate) enum OwnHash {
    /// Not at all: it is a part.
    None,
    /// With the hash of all bytes before.
    After(Box<Hasher>),
    /// The blob is read from its beginning, and what the reader has already is only hashed.
    FromBeginning,
}

/// A part of a blob, by a request of its own.
#[derive(Debug)]
pub(crate) struct OwnStream {
    blob: UpstreamBlob,
    digest: Digest,
    /// The next byte.
    offset: u64,
    end: u64,
    /// From where on bytes are handed on.
    from: u64,
    /// From where on bytes are withheld until the digest is right.
    withheld_from: u64,
    held: VecDeque<Bytes>,
    /// Of all bytes before `offset`, if the whole blob is read.
    hasher: Option<Hasher>,
    is_over: bool,
}

impl OwnStream {
    /// Reads from one offset to another.
    pub(crate) async fn open(
        client: &UpstreamClient,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        (from, end): (u64, u64),
        hash: OwnHash,
    ) -> Result<Self, UpstreamError> {
        let (offset, hasher) = match hash {
            OwnHash::None => (from, None),
            OwnHash::After(hasher) => (from, Some(*hasher)),
            OwnHash::FromBeginning => (0, Some(Hasher::new(digest.algorithm()))),
        };
        let mut request = BlobRequest::new(digest.clone()).with_size(size_bytes);
        if offset > 0 || end < size_bytes {
            request = request.with_range(UpstreamRange { start: offset, end: Some(end) });
        }
        let blob = client.open_blob(repository, &request).await?;
        let tail = size_bytes.saturating_sub(TAIL_BYTES);
        let withheld_from = if hasher.is_some() { tail } else { end };
        let digest = digest.clone();
        let held = VecDeque::new();
        Ok(Self { blob, digest, offset, end, from, withheld_from, held, hasher, is_over: false })
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            if self.is_over {
                return Ok(self.held.pop_front());
            }
            match self.blob.next_chunk().await? {
                Some(mut chunk) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&chunk);
                    }
                    let place = |at: u64, chunk: &Bytes| {
                        let within = at.saturating_sub(self.offset).min(chunk.len() as u64);
                        usize::try_from(within).unwrap_or(chunk.len())
                    };
                    let (skipped, free) =
                        (place(self.from, &chunk), place(self.withheld_from, &chunk));
                    self.offset += chunk.len() as u64;
                    let kept = chunk.split_off(free.max(skipped));
                    let _ = chunk.split_to(skipped.min(chunk.len()));
                    if !kept.is_empty() {
                        self.held.push_back(kept);
                    }
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
                None => self.finish()?,
            }
        }
    }

    fn finish(&mut self) -> Result<(), UpstreamError> {
        let wrong = |kind| UpstreamError { host: "".into(), kind };
        if self.offset != self.end {
            let (expected, actual) = (self.end, self.offset);
            return Err(wrong(UpstreamErrorKind::WrongSize { expected, actual }));
        }
        if let Some(hasher) = self.hasher.take() {
            let actual = hasher.finish();
            if actual != self.digest {
                let expected = self.digest.clone();
                return Err(wrong(UpstreamErrorKind::WrongDigest { expected, actual }));
            }
        }
        self.is_over = true;
        Ok(())
    }
}
