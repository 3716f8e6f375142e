//! What jreg tells its operators: the log, metrics and the audit log.

pub mod audit;
pub mod logging;
pub mod metrics;
