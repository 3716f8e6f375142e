//! [`Evaluation`]: the decisions of a policy for one requester.
//!
//! - The facts that conditions see of the requester are made once, when the first condition is
//!   evaluated.
//! - A condition is evaluated again only if something that it names is not as it was in the
//!   decision before. A caller with many decisions orders them by repository.
//! - At most [`CONDITIONS_EVALUATED_MAX`] conditions are evaluated. Those beyond cannot be said to
//!   hold or not, so they grant nothing.

use jreg_oci::RepositoryName;

use crate::Action;
use crate::condition::{Condition, ConditionSubject, Facts};
use crate::policy::{Decision, Grants, Policy, Query, Reason, Rule, Tagged, granted};

/// The most conditions that are evaluated for one request. Each takes microseconds.
pub const CONDITIONS_EVALUATED_MAX: usize = 20_000;

/// The decisions of a policy for one requester.
#[derive(Debug)]
pub struct Evaluation<'a> {
    policy: &'a Policy,
    /// The requester, where and when. The action, repository and tag are those of the last decision.
    query: Query<'a>,
    grants: Grants<'a>,
    /// Which rules are about the requester.
    about: Vec<bool>,
    facts: Option<Result<Facts, String>>,
    /// What each rule's condition came to last.
    last: Vec<Option<(ConditionSubject, Result<bool, String>)>>,
    evaluated: usize,
}

impl<'a> Evaluation<'a> {
    /// For the requester of a query, with what the credentials grant.
    pub fn new(policy: &'a Policy, query: Query<'a>, grants: Grants<'a>) -> Self {
        let about = policy.rules().iter().map(|rule| policy.is_about(rule, &query)).collect();
        Self { policy, query, grants, about, facts: None, last: Vec::new(), evaluated: 0 }
    }

    /// Lets as many conditions be evaluated again: for listings, which end for other reasons.
    pub fn renew_budget(&mut self) {
        self.evaluated = 0;
    }

    /// How many conditions were evaluated.
    pub fn evaluated(&self) -> usize {
        self.evaluated
    }

    /// What the rules say of an action, and why.
    pub fn decide(
        &mut self,
        action: Action,
        repository: Option<&'a RepositoryName>,
        tag: Tagged<'a>,
    ) -> Decision {
        self.turn_to(action, repository, tag);
        if let Some(reason) = self.denial() {
            return Decision { allowed: false, reason };
        }
        match self.allowance() {
            Some(reason) => Decision { allowed: true, reason },
            None => Decision { allowed: false, reason: Reason::NoRule },
        }
    }

    /// Whether the rules allow an action: the same as [`Evaluation::decide`] says, but what no rule
    /// allows is found without a look at those that deny it.
    pub fn allows(
        &mut self,
        action: Action,
        repository: Option<&'a RepositoryName>,
        tag: Tagged<'a>,
    ) -> bool {
        self.turn_to(action, repository, tag);
        self.allowance().is_some() && self.denial().is_none()
    }

    fn turn_to(&mut self, action: Action, repository: Option<&'a RepositoryName>, tag: Tagged<'a>) {
        (self.query.action, self.query.repository, self.query.tag) = (action, repository, tag);
    }

    /// Why it is denied, if a rule denies it.
    fn denial(&mut self) -> Option<Reason> {
        for (index, rule) in self.policy.rules().iter().enumerate() {
            if !rule.denies || !self.concerns(index, rule) {
                continue;
            }
            match self.holds(index, rule, false) {
                Ok(true) => return Some(rule.reason(index)),
                Ok(false) => {}
                Err(error) => return Some(Reason::Condition { name: rule.name.clone(), error }),
            }
        }
        None
    }

    /// Why it is allowed, if the credentials or a rule allow it.
    fn allowance(&mut self) -> Option<Reason> {
        if let Some(reason) = granted(self.grants, &self.query) {
            return Some(reason);
        }
        for (index, rule) in self.policy.rules().iter().enumerate() {
            if !rule.denies
                && self.concerns(index, rule)
                && self.holds(index, rule, true) == Ok(true)
            {
                return Some(rule.reason(index));
            }
        }
        None
    }

    fn concerns(&self, index: usize, rule: &Rule) -> bool {
        self.about[index] && rule.covers(&self.query)
    }

    /// Whether a rule's condition holds; where it depends on a tag that is not known yet,
    /// `unknown`.
    fn holds(&mut self, index: usize, rule: &Rule, unknown: bool) -> Result<bool, String> {
        match &rule.condition {
            None => Ok(true),
            Some(condition) if condition.needs_tag() && self.query.tag == Tagged::Unknown => {
                Ok(unknown)
            }
            Some(condition) => self.evaluate(index, condition),
        }
    }

    fn evaluate(&mut self, index: usize, condition: &Condition) -> Result<bool, String> {
        let subject = condition.subject(&self.query);
        if self.last.is_empty() {
            self.last.resize_with(self.policy.rules().len(), || None);
        }
        if let Some((last, result)) = &self.last[index]
            && *last == subject
        {
            return result.clone();
        }
        if self.evaluated >= CONDITIONS_EVALUATED_MAX {
            return Err(format!(
                "more than {CONDITIONS_EVALUATED_MAX} conditions would be evaluated for a request"
            ));
        }
        self.evaluated += 1;
        let query = &self.query;
        let facts = self.facts.get_or_insert_with(|| Facts::new(query)).as_ref();
        let result = facts.map_err(Clone::clone).and_then(|facts| condition.holds(facts, query));
        self.last[index] = Some((subject, result.clone()));
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fmt::Write as _;
    use std::time::SystemTime;

    use super::*;
    use crate::Identity;

    static ANONYMOUS: Identity = Identity::Anonymous;

    /// A rule that allows, and many conditions that would deny.
    fn policy(conditions: usize, condition: &str) -> Policy {
        let mut text = "[[rule]]\nsubjects = ['everyone']\nrepositories = ['open/**']\n\
                        actions = ['pull', 'push']\n"
            .to_owned();
        for number in 0..conditions {
            let condition = condition.replace("{}", &number.to_string());
            writeln!(
                text,
                "[[rule]]\neffect = 'deny'\nsubjects = ['everyone']\nrepositories = ['**']\n\
                 actions = ['pull', 'push']\ncondition = \"{condition}\""
            )
            .unwrap();
        }
        Policy::parse(&text).unwrap()
    }

    fn evaluation(policy: &Policy) -> Evaluation<'_> {
        let query = Query {
            identity: &ANONYMOUS,
            certificate: None,
            action: Action::Pull,
            repository: None,
            tag: Tagged::No,
            address: None,
            now: SystemTime::UNIX_EPOCH,
        };
        Evaluation::new(policy, query, Grants::None)
    }

    fn names(prefix: &str, count: usize) -> Vec<RepositoryName> {
        (0..count).map(|number| format!("{prefix}/r{number}").parse().unwrap()).collect()
    }

    #[test]
    fn a_condition_is_evaluated_once_for_what_it_names() {
        let names = names("open", 10);
        for (condition, evaluations) in [
            ("repository == 'team{}/x'", 30),
            ("hour > 2{}0", 3),
            ("action == 'x{}'", 60),
            ("repository == 'a{}' && action == 'b'", 60),
        ] {
            let policy = policy(3, condition);
            let mut evaluation = evaluation(&policy);
            for name in &names {
                for action in [Action::Pull, Action::Push] {
                    assert!(evaluation.allows(action, Some(name), Tagged::No));
                    assert!(evaluation.decide(action, Some(name), Tagged::No).allowed);
                }
            }
            assert_eq!(evaluation.evaluated(), evaluations, "{condition}");
        }
    }

    #[test]
    fn what_no_rule_allows_evaluates_nothing() {
        let policy = policy(100, "repository == 'team{}/x'");
        let mut evaluation = evaluation(&policy);
        let names = names("closed", 100);
        for name in &names {
            assert!(!evaluation.allows(Action::Pull, Some(name), Tagged::No));
        }
        assert_eq!(evaluation.evaluated(), 0);
    }

    #[test]
    fn conditions_beyond_the_limit_let_nobody_in() {
        let policy = policy(900, "repository == 'team{}/x'");
        let names = names("open", 30);
        let mut evaluation = evaluation(&policy);
        let allowed: Vec<bool> = names
            .iter()
            .map(|name| evaluation.allows(Action::Pull, Some(name), Tagged::No))
            .collect();
        let expected: Vec<bool> =
            (1..=30).map(|number| number * 900 <= CONDITIONS_EVALUATED_MAX).collect();
        assert_eq!(allowed, expected);
        assert_eq!(evaluation.evaluated(), CONDITIONS_EVALUATED_MAX);
        assert!(!evaluation.decide(Action::Pull, Some(&names[29]), Tagged::No).allowed);
    }
}
