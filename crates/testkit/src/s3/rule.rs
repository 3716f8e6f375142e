//! What goes wrong, and with which requests: rules that a test adds while the server runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::operation::OperationTarget;
use super::{S3Gate, S3Operation};
use crate::Rng;

/// What is done to a request that a rule matches.
#[derive(Clone, Debug)]
pub enum S3Fault {
    /// It takes this much longer, before it takes effect.
    Delay(Duration),
    /// It waits at the gate before it takes effect. It takes effect after that even if the client
    /// no longer exists.
    Hold(S3Gate),
    /// It waits at the gate after it took effect and before it is answered.
    HoldResponse(S3Gate),
    /// It is answered with an error, and takes no effect.
    Refuse(S3Refusal),
    /// If it would be answered with 412, it is with this error instead: a server that does not
    /// say who has lost.
    RefuseLosers(S3Refusal),
    /// The connection is closed, and it takes no effect.
    CutBefore,
    /// It takes effect, and the connection is closed without a response.
    LoseResponse,
    /// The connection is closed after this many bytes of the response's body.
    CutBody(u64),
    /// The response's body stops after this many bytes until the gate lets it continue.
    StallBody(u64, S3Gate),
}

/// An error without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Refusal {
    /// 500 `InternalError`
    InternalError,
    /// 503 `SlowDown`
    SlowDown,
    /// 503 `ServiceUnavailable`
    Unavailable,
    /// 429 `TooManyRequests`
    TooManyRequests,
    /// 409 `ConditionalRequestConflict`
    Conflict,
    /// 403 `AccessDenied`
    AccessDenied,
    /// 412 `PreconditionFailed`
    PreconditionFailed,
    /// 500 `UnknownError`
    Unknown,
    /// 501 `NotImplemented`
    NotImplemented,
    /// 400 `InvalidArgument`
    InvalidArgument,
    /// 405 `MethodNotAllowed`
    MethodNotAllowed,
    /// 403 `RequestTimeTooSkewed`
    TimeTooSkewed,
    /// 200 with an HTML page and an ETag: something in front of the store responds.
    ForeignPage,
}

impl S3Refusal {
    pub fn status(self) -> u16 {
        match self {
            Self::ForeignPage => 200,
            Self::InternalError | Self::Unknown => 500,
            Self::NotImplemented => 501,
            Self::InvalidArgument => 400,
            Self::MethodNotAllowed => 405,
            Self::SlowDown | Self::Unavailable => 503,
            Self::TooManyRequests => 429,
            Self::Conflict => 409,
            Self::AccessDenied | Self::TimeTooSkewed => 403,
            Self::PreconditionFailed => 412,
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::ForeignPage => "",
            Self::InternalError => "InternalError",
            Self::SlowDown => "SlowDown",
            Self::Unavailable => "ServiceUnavailable",
            Self::TooManyRequests => "TooManyRequests",
            Self::Conflict => "ConditionalRequestConflict",
            Self::AccessDenied => "AccessDenied",
            Self::PreconditionFailed => "PreconditionFailed",
            Self::Unknown => "UnknownError",
            Self::NotImplemented => "NotImplemented",
            Self::InvalidArgument => "InvalidArgument",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::TimeTooSkewed => "RequestTimeTooSkewed",
        }
    }
}

/// Which requests a fault is for. Without more said, all of them.
#[derive(Clone, Debug)]
pub struct FaultRule {
    operation: Option<S3Operation>,
    prefix: String,
    part: String,
    turn: RuleTurn,
    hits_max: u64,
    fault: S3Fault,
}

#[derive(Clone, Copy, Debug)]
enum RuleTurn {
    All,
    Nth(u64),
    First(u64),
    Every(u64),
    OneIn { out_of: u64, seed: u64 },
}

impl RuleTurn {
    fn comes(self, count: u64) -> bool {
        match self {
            Self::All => true,
            Self::Nth(nth) => count == nth,
            Self::First(first) => count <= first,
            Self::Every(every) => count.is_multiple_of(every),
            Self::OneIn { out_of, seed } => {
                Rng::new(seed ^ count.rotate_left(32)).chance(1, out_of)
            }
        }
    }
}

impl FaultRule {
    /// A fault for every request.
    pub fn new(fault: S3Fault) -> Self {
        Self {
            operation: None,
            prefix: String::new(),
            part: String::new(),
            turn: RuleTurn::All,
            hits_max: u64::MAX,
            fault,
        }
    }

    /// Only those of this operation.
    #[must_use]
    pub fn on(mut self, operation: S3Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only those whose key begins so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Only those whose key contains this.
    #[must_use]
    pub fn containing(mut self, part: impl Into<String>) -> Self {
        self.part = part.into();
        self
    }

    /// Of those, only the N-th from when the rule is added; the first is 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.turn = RuleTurn::Nth(nth);
        self
    }

    /// Of those, only this many from when the rule is added.
    #[must_use]
    pub fn first(mut self, count: u64) -> Self {
        self.turn = RuleTurn::First(count);
        self
    }

    /// Of those, every N-th.
    #[must_use]
    pub fn every(mut self, every: u64) -> Self {
        self.turn = RuleTurn::Every(every);
        self
    }

    /// Of those, one in so many at random: which ones follows from the seed and from the order in
    /// which they come.
    #[must_use]
    pub fn one_in(mut self, out_of: u64, seed: u64) -> Self {
        self.turn = RuleTurn::OneIn { out_of, seed };
        self
    }

    /// No more than this many, whichever they are.
    #[must_use]
    pub fn at_most(mut self, count: u64) -> Self {
        self.hits_max = count;
        self
    }

    fn is_for(&self, target: &OperationTarget) -> bool {
        self.operation.is_none_or(|operation| operation == target.operation)
            && target.key.starts_with(&self.prefix)
            && target.key.contains(&self.part)
    }
}

/// A rule in force. Dropping this does not end it.
#[derive(Clone, Debug)]
pub struct InjectedRule(Arc<ActiveRule>);

#[derive(Debug)]
struct ActiveRule {
    rule: FaultRule,
    seen: AtomicU64,
    hits: AtomicU64,
}

impl InjectedRule {
    /// How many requests the fault was done to.
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::SeqCst)
    }

    /// How many requests the rule was for, whether or not it was their turn.
    pub fn seen(&self) -> u64 {
        self.0.seen.load(Ordering::SeqCst)
    }

    fn fault(&self, target: &OperationTarget) -> Option<S3Fault> {
        let ActiveRule { rule, seen, hits } = &*self.0;
        if !rule.is_for(target) || !rule.turn.comes(seen.fetch_add(1, Ordering::SeqCst) + 1) {
            return None;
        }
        let one_more = |hits| (hits < rule.hits_max).then_some(hits + 1);
        hits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        Some(rule.fault.clone())
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct FaultRules(Mutex<Vec<InjectedRule>>);

impl FaultRules {
    pub(crate) fn add(&self, rule: FaultRule) -> InjectedRule {
        let active = ActiveRule { rule, seen: AtomicU64::new(0), hits: AtomicU64::new(0) };
        let injected = InjectedRule(Arc::new(active));
        self.rules().push(injected.clone());
        injected
    }

    pub(crate) fn remove(&self, injected: &InjectedRule) {
        self.rules().retain(|other| !Arc::ptr_eq(&other.0, &injected.0));
    }

    pub(crate) fn clear(&self) {
        self.rules().clear();
    }

    /// What is to be done to a request; counts it in all rules that are for it.
    pub(crate) fn faults(&self, target: &OperationTarget) -> Vec<S3Fault> {
        self.rules().iter().filter_map(|rule| rule.fault(target)).collect()
    }

    fn rules(&self) -> MutexGuard<'_, Vec<InjectedRule>> {
        self.0.lock().expect("no holder of the rules panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_count_from_when_the_rule_was_added() {
        let rules = FaultRules::default();
        let every = rules.add(FaultRule::new(S3Fault::LoseResponse).every(2));
        let first = rules.add(FaultRule::new(S3Fault::LoseResponse).first(3));
        hit(&rules, "k");
        let nth = rules.add(FaultRule::new(S3Fault::LoseResponse).nth(2));
        let counts: Vec<_> = (0..3)
            .map(|_| {
                hit(&rules, "k");
                (every.hits(), first.hits(), nth.hits())
            })
            .collect();
        assert_eq!(counts, [(1, 2, 0), (1, 3, 1), (2, 3, 1)]);
        assert_eq!((every.seen(), nth.seen()), (4, 3));
    }

    #[test]
    fn a_rule_is_for_what_it_says() {
        let rules = FaultRules::default();
        let rule = FaultRule::new(S3Fault::CutBefore).on(S3Operation::GetObject);
        let injected = rules.add(rule.prefix("a/").containing("x"));
        for key in ["a/x", "a/y", "b/a/x", "x"] {
            hit(&rules, key);
        }
        assert_eq!(injected.hits(), 1);
        let put = OperationTarget { operation: S3Operation::PutObject, ..get("a/x") };
        assert!(rules.faults(&put).is_empty());
        rules.remove(&injected);
        assert!(rules.faults(&get("a/x")).is_empty());
    }

    #[test]
    fn chance_follows_from_the_seed_and_is_bounded() {
        let rules = FaultRules::default();
        let rule = |seed| FaultRule::new(S3Fault::CutBefore).one_in(4, seed);
        let (one, same, other) = (rules.add(rule(1)), rules.add(rule(1)), rules.add(rule(2)));
        let bounded = rules.add(rule(1).at_most(3));
        let mut differ = false;
        for _ in 0..400 {
            hit(&rules, "k");
            assert_eq!(one.hits(), same.hits());
            differ |= one.hits() != other.hits();
        }
        assert!(differ && (50..150).contains(&one.hits()), "{}", one.hits());
        assert_eq!((bounded.hits(), bounded.seen()), (3, 400));
    }

    fn hit(rules: &FaultRules, key: &str) {
        rules.faults(&get(key));
    }

    fn get(key: &str) -> OperationTarget {
        OperationTarget {
            operation: S3Operation::GetObject,
            key: key.to_owned(),
            query: String::new(),
        }
    }
}
