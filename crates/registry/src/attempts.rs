//! [`SwapAttempts`]: retries of a lost compare-and-swap, with the error for the client.

use jreg_storage::SwapRetries;

use crate::{Error, Result};

/// The attempts of one change, each to be begun by [`next`](Self::next).
#[derive(Debug)]
pub(crate) struct SwapAttempts {
    contended: &'static str,
    retries: SwapRetries,
}

impl SwapAttempts {
    /// `contended` says in the client's error what too many others are changing.
    pub(crate) fn new(contended: &'static str) -> Self {
        Self { contended, retries: SwapRetries::default() }
    }

    /// Begins the next attempt, after a back-off unless it is the first.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] after the last attempt.
    pub(crate) async fn next(&mut self) -> Result<()> {
        match self.try_next().await {
            true => Ok(()),
            false => Err(Error::Busy { what: self.contended }),
        }
    }

    /// The same, for a change that has a fallback after the last attempt: `false`.
    pub(crate) async fn try_next(&mut self) -> bool {
        self.retries.next().await
    }

    /// Whether an attempt was lost before the one that was begun last.
    pub(crate) fn is_retry(&self) -> bool {
        self.retries.is_retry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_error_names_what_is_contended() {
        let mut attempts = SwapAttempts::new("it is contended");
        let busy = loop {
            if let Err(error) = attempts.next().await {
                break error;
            }
        };
        assert!(matches!(busy, Error::Busy { what: "it is contended" }), "{busy:?}");
        assert!(attempts.is_retry() && !attempts.try_next().await);
    }
}
