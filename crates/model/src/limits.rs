//! [`ProtocolLimits`]: the constants of the protocol, in ticks.

/// The constants of the format and of GC, in ticks of the store's clock.
///
/// The defaults keep the proportions that matter (a write is in flight for less than a touch age,
/// and both together are no more than the grace) with as few ticks as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolLimits {
    /// T: from this age on, a record is touched before a write depends on it.
    pub touch_age: u8,
    /// B: a referencing write takes effect no later than this after its first read.
    pub window: u8,
    /// G: GC ignores what is no older than this.
    pub grace: u8,
    /// How long after its closing a session may begin to write its link again.
    pub replay: u8,
    /// How long a reader may use a location (a cached link, a signed URL).
    pub trust: u8,
    /// How long a location without links waits before its bytes are removed.
    pub wait: u8,
    /// How long a replaced change and a deleted manifest can be restored (`history-keep`).
    pub keep: u8,
    /// When the clock stops.
    pub end: u8,
}

impl Default for ProtocolLimits {
    fn default() -> Self {
        Self { touch_age: 2, window: 1, grace: 4, replay: 2, trust: 2, wait: 2, keep: 4, end: 9 }
    }
}

impl ProtocolLimits {
    /// How long acknowledged content stays, referenced or not: G - T.
    pub(crate) fn promise(&self) -> u8 {
        self.grace - self.touch_age
    }
}
