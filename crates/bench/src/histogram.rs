//! Latencies, counted: how many fell where, in as much memory for a billion as for one.

/// Steps that each doubling is cut into: a latency is known to within 1/128 of itself.
const STEPS_BITS: u32 = 7;
const STEPS: u64 = 1 << STEPS_BITS;
/// What is longer counts as this long: over an hour.
const NANOSECONDS_MAX: u64 = (1 << 42) - 1;

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let len = usize::try_from(step_of(NANOSECONDS_MAX)).unwrap_or_default() + 1;
        Self { counts: vec![0; len], count: 0, sum: 0, max: 0 }
    }
}

/// Below [`STEPS`] each value has a step of its own; from there on each doubling has [`STEPS`].
fn step_of(value: u64) -> u64 {
    let doubling = value.max(1).ilog2().saturating_sub(STEPS_BITS);
    u64::from(doubling) * STEPS + (value >> doubling)
}

/// The largest value of a step.
fn end_of(step: u64) -> u64 {
    let doubling = (step / STEPS).saturating_sub(1);
    let base = step - doubling * STEPS;
    ((base + 1) << doubling) - 1
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, nanoseconds: u64) {
        let value = nanoseconds.min(NANOSECONDS_MAX);
        let step = usize::try_from(step_of(value)).unwrap_or(usize::MAX);
        if let Some(count) = self.counts.get_mut(step) {
            *count += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Counts what another counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 if there is none.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// What so many of a thousand do not exceed, to within the width of a step, and never above
    /// the longest; 0 if there is none.
    pub fn permille(&self, permille: u64) -> u64 {
        let rank = (self.count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (step, count) in (0..).zip(&self.counts) {
            seen += count;
            if seen >= rank {
                return end_of(step).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_step_and_steps_follow_each_other() {
        let mut last = None;
        for value in (0..5000).chain([u64::from(u32::MAX), NANOSECONDS_MAX - 1, NANOSECONDS_MAX]) {
            let step = step_of(value);
            assert!(end_of(step) >= value, "{value}");
            assert!(step == 0 || end_of(step - 1) < value, "{value}");
            assert!(end_of(step) - value <= value / STEPS, "{value} to within a step");
            assert!(last <= Some(step));
            last = Some(step);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        (1..=1000).rev().for_each(|value| histogram.record(value * 1000));
        assert_eq!(
            (histogram.count(), histogram.max(), histogram.mean()),
            (1000, 1_000_000, 500_500)
        );
        for permille in [1, 500, 950, 990, 999, 1000] {
            let exact = permille * 1000;
            let found = histogram.permille(permille);
            assert!((exact..=exact + exact / STEPS).contains(&found), "{permille}: {found}");
        }
    }

    #[test]
    fn nothing_counted_is_nothing() {
        let none = Histogram::default();
        assert_eq!((none.permille(500), none.max(), none.mean(), none.count()), (0, 0, 0, 0));
    }

    #[test]
    fn what_is_merged_counts_as_if_it_were_counted_here() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        (0..100).for_each(|_| low.record(10));
        (0..100).for_each(|_| high.record(u64::MAX));
        low.merge(&high);
        assert_eq!((low.count(), low.permille(500), low.max()), (200, 10, NANOSECONDS_MAX));
    }
}
