//! [`Limits`]: the constants of the protocol, in ticks.

/// The constants of the format and of the collector, in ticks of the store's clock.
///
/// The defaults keep the proportions that matter (a write is on its way for less than a touch age,
/// and both together are no more than the grace) with as few ticks as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// T: from this age on, a record is written again before something is made to depend on it.
    pub touch_age: u8,
    /// B: a referencing write takes effect no later than this after its first read.
    pub window: u8,
    /// G: a collector leaves alone what is no older than this.
    pub grace: u8,
    /// How long after its closing a session may begin to write its link again.
    pub replay: u8,
    /// For how long what a reader was told (a cached link, a signed URL) may be used.
    pub trust: u8,
    /// How long a location without links waits before its bytes are removed.
    pub wait: u8,
    /// When the clock stops.
    pub end: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { touch_age: 2, window: 1, grace: 4, replay: 2, trust: 2, wait: 2, end: 9 }
    }
}

impl Limits {
    /// For how long what was acknowledged stays, whoever refers to it or not: G - T.
    pub(crate) fn promise(&self) -> u8 {
        self.grace - self.touch_age
    }
}
