//! [`QuotaRules`]: how much repositories may hold together.

use std::fmt;

use jreg_oci::{RepositoryName, RepositoryPattern};
use jreg_units::format_size;

use crate::sentence::abridged;

/// The quotas, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaRules(Vec<QuotaPool>);

/// One limit for all repositories that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaPool {
    pub repositories: Vec<RepositoryPattern>,
    /// The limit.
    pub bytes: u64,
    /// The percentage of the limit from which on there are warnings.
    pub warn_percent: u8,
}

/// Whether a pool has room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaVerdict {
    Within,
    /// There is room, but little is left.
    Warn(QuotaUsage),
    Exceeded(QuotaUsage),
}

/// The use of a pool, as an error or a warning says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUsage {
    /// From 1.
    pub number: usize,
    repositories: String,
    pub used: u64,
    /// What a request would add.
    pub adding: u64,
    pub limit: u64,
}

impl QuotaRules {
    pub(crate) fn new(pools: Vec<QuotaPool>) -> Self {
        Self(pools)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn all(&self) -> &[QuotaPool] {
        &self.0
    }

    /// The pools that a repository counts in, with their numbers from 1. All of them must hold.
    pub fn pools<'a>(
        &'a self,
        repository: &'a RepositoryName,
    ) -> impl Iterator<Item = (usize, &'a QuotaPool)> {
        (1..).zip(&self.0).filter(|(_, pool)| pool.matches(repository))
    }

    /// The verdict on `adding` more bytes, where `used` tells the use of a pool by its number: of the
    /// first pool that is exceeded, or else of the first that warns.
    pub fn judge(
        &self,
        repository: &RepositoryName,
        adding: u64,
        used: impl Fn(usize) -> u64,
    ) -> QuotaVerdict {
        let mut verdict = QuotaVerdict::Within;
        for (number, pool) in self.pools(repository) {
            match pool.judge(number, used(number), adding) {
                QuotaVerdict::Within => {}
                warning @ QuotaVerdict::Warn(_) if verdict == QuotaVerdict::Within => {
                    verdict = warning;
                }
                QuotaVerdict::Warn(_) => {}
                exceeded @ QuotaVerdict::Exceeded(_) => return exceeded,
            }
        }
        verdict
    }
}

impl QuotaPool {
    pub fn matches(&self, repository: &RepositoryName) -> bool {
        self.repositories.iter().any(|pattern| pattern.matches(repository))
    }

    /// The use from which on there are warnings.
    pub fn warn_bytes(&self) -> u64 {
        // A percentage of a 64-bit number fits 64 bits.
        let bytes = u128::from(self.bytes) * u128::from(self.warn_percent) / 100;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The use below which a warning is over: a twentieth of the limit below its threshold, so that one that goes
    /// up and down there is one warning.
    pub fn calm_bytes(&self) -> u64 {
        self.warn_bytes().saturating_sub(self.bytes / 20)
    }

    /// The use of the pool of this number.
    pub fn usage(&self, number: usize, used: u64) -> QuotaUsage {
        let repositories = abridged(&self.repositories);
        QuotaUsage { number, repositories, used, adding: 0, limit: self.bytes }
    }

    /// The verdict on `adding` bytes to the pool of this number. The limit itself may be used.
    pub fn judge(&self, number: usize, used: u64, adding: u64) -> QuotaVerdict {
        let after = used.saturating_add(adding);
        if after < self.warn_bytes() {
            return QuotaVerdict::Within;
        }
        let usage = QuotaUsage { adding, ..self.usage(number, used) };
        if after > self.bytes { QuotaVerdict::Exceeded(usage) } else { QuotaVerdict::Warn(usage) }
    }
}

impl fmt::Display for QuotaUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, repositories, used, adding, limit } = self;
        let size = format_size(*limit);
        write!(f, "quota {number} ({repositories}): {used} bytes of {size} are used")?;
        if *adding > 0 {
            write!(f, ", and {adding} more are requested")?;
        }
        Ok(())
    }
}
