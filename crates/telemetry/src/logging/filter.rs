//! [`CurrentFilter`]: the filter of the log, which can change while the process runs.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;

/// The filter of the log. The decision on each place in the code is cached, so that events do not take the
/// lock.
#[derive(Clone, Debug, Default)]
pub struct CurrentFilter(Arc<RwLock<Targets>>);

impl CurrentFilter {
    pub(super) fn new(filter: &str) -> Self {
        Self(Arc::new(RwLock::new(parse(filter))))
    }

    /// Replaces the filter, for all threads.
    pub fn set(&self, filter: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = parse(filter);
        tracing::callsite::rebuild_interest_cache();
    }

    /// The filter in use.
    pub fn show(&self) -> String {
        self.targets().to_string()
    }

    fn targets(&self) -> RwLockReadGuard<'_, Targets> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings contain only valid filters.
fn parse(filter: &str) -> Targets {
    filter.parse().unwrap_or_default()
}

impl<S: Subscriber> Layer<S> for CurrentFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        Layer::<S>::register_callsite(&*self.targets(), metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        Layer::<S>::enabled(&*self.targets(), metadata, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&*self.targets())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::Event;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_changed_filter_holds_for_the_next_event() {
        let (filter, count) = (CurrentFilter::new("warn"), Count::default());
        let layers = tracing_subscriber::registry().with(filter.clone()).with(count.clone());
        tracing::subscriber::with_default(layers, || {
            let event = || tracing::info!("event");
            event();
            assert_eq!(count.0.load(Ordering::Relaxed), 0);
            filter.set("warn,jreg_telemetry=info");
            event();
            assert_eq!(count.0.load(Ordering::Relaxed), 1);
            filter.set("off");
            event();
            assert_eq!(count.0.load(Ordering::Relaxed), 1);
            assert_eq!(filter.show(), "off");
        });
    }
}
