//! [`ModelRecord`]: a small object in the store.

/// An object that is changed only as a whole. Its value says whether it is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModelRecord<V> {
    pub(crate) value: V,
    /// The etag: counts the writes, since each has a nonce of its own.
    pub(crate) version: u8,
    /// When it was written, by the store's clock.
    pub(crate) modified: u8,
}

impl<V> ModelRecord<V> {
    /// What has been there since the clock began.
    pub(crate) fn old(value: V) -> Self {
        Self { value, version: 0, modified: 0 }
    }

    /// A write that takes effect.
    pub(crate) fn write(&mut self, value: V, now: u8) {
        *self = Self { value, version: self.version + 1, modified: now };
    }

    /// A delete that takes effect: `nothing` is the value of what is not there.
    pub(crate) fn delete(&mut self, nothing: V) {
        self.write(nothing, 0);
    }
}
