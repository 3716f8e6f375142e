//! File descriptors: the limit of this process (`RLIMIT_NOFILE`) and its distribution.

/// Descriptors reserved for the store, logs and requests to a bucket.
const RESERVED: u64 = 256;
/// If the limit is low, a quarter is reserved.
const RESERVED_SHARE: u64 = 4;
/// Share of the rest, and maximum, for responses on HTTP/2 connections beside the one that each
/// connection has.
const RESPONSES_SHARE: u64 = 8;
const RESPONSES_MAX: u64 = 1024;
/// Descriptors per connection: its socket, and the file of a request or response.
const PER_CONNECTION: u64 = 2;

/// Limits derived from the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of concurrent responses that read from the store, beside one per connection.
    pub responses: usize,
}

impl Allowance {
    /// Limits for a number of descriptors.
    pub fn of(descriptors: u64) -> Self {
        let rest = descriptors - RESERVED.min(descriptors / RESERVED_SHARE);
        let responses = (rest / RESPONSES_SHARE).clamp(1, RESPONSES_MAX);
        let connections = (rest.saturating_sub(responses) / PER_CONNECTION).max(1);
        let [connections, responses] =
            [connections, responses].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        Self { connections, responses }
    }
}

/// The descriptor limit of this process.
pub fn limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit to the hard limit.
pub fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    // Some systems report no limit and then refuse to raise it: it stays as it is.
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, current, maximum, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_responses_leave_descriptors_for_the_rest() {
        for descriptors in [64, 256, 1024, 4096, 65_536, 1 << 20] {
            let Allowance { connections, responses } = Allowance::of(descriptors);
            let taken = connections as u64 * PER_CONNECTION + responses as u64;
            let left = descriptors - taken;
            assert!(left >= RESERVED.min(descriptors / RESERVED_SHARE), "{descriptors}: {left}");
        }
        let few = Allowance { connections: 336, responses: 96 };
        assert_eq!(Allowance::of(1024), few);
        assert!(Allowance::of(16_384).connections >= 4096);
    }
}
