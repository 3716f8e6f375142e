//! [`CurrentRules`]: the rules in use, which a reload replaces.

use std::sync::{Arc, PoisonError, RwLock};

use crate::LifecycleRules;

/// The rules in use. A clone sees the same rules, also after a reload.
///
/// A request or a run takes [`CurrentRules::get`] once, and is judged by these rules as a whole.
#[derive(Clone, Debug, Default)]
pub struct CurrentRules(Arc<RwLock<Arc<LifecycleRules>>>);

impl CurrentRules {
    pub fn new(rules: Arc<LifecycleRules>) -> Self {
        Self(Arc::new(RwLock::new(rules)))
    }

    pub fn get(&self) -> Arc<LifecycleRules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace(&self, rules: Arc<LifecycleRules>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}
