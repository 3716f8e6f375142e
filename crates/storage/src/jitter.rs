//! Jitter: random pauses, so that clients which failed together do not retry together.

use std::time::Duration;

/// A random duration from zero to `max` ("full jitter").
pub fn full_jitter(max: Duration) -> Duration {
    max.mul_f64(rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_differ_and_stay_below_the_limit() {
        let max = Duration::from_secs(1);
        let drawn: std::collections::HashSet<_> = (0..20).map(|_| full_jitter(max)).collect();
        assert!(drawn.len() > 1 && drawn.iter().all(|duration| *duration <= max));
        assert_eq!(full_jitter(Duration::ZERO), Duration::ZERO);
    }
}
