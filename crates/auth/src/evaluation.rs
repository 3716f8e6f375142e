//! [`PolicyEvaluation`]: the decisions of a policy for one request.
//!
//! - The variables of conditions that are the same for all decisions are built once, when the first condition is
//!   evaluated.
//! - A condition is evaluated again only if a variable that it uses differs from the
//!   decision before. A caller with many decisions orders them by repository.
//! - At most [`CONDITIONS_EVALUATED_MAX`] conditions are evaluated. Beyond that the result is
//!   unknown, so they grant nothing.

use jreg_oci::RepositoryName;

use crate::AccessAction;
use crate::condition::{ConditionSubject, PolicyCondition, RequestFacts};
use crate::policy::{
    CredentialGrants, DecisionReason, Policy, PolicyDecision, PolicyQuery, PolicyRule, QueryTag,
    granted,
};

/// Maximum conditions that are evaluated for one request. Each takes microseconds.
pub const CONDITIONS_EVALUATED_MAX: usize = 20_000;

/// The decisions of a policy for one request.
#[derive(Debug)]
pub struct PolicyEvaluation<'a> {
    policy: &'a Policy,
    /// The client, address and time. The action, repository and tag are those of the last decision.
    query: PolicyQuery<'a>,
    grants: CredentialGrants<'a>,
    /// Whether each rule matches the client.
    about: Vec<bool>,
    facts: Option<Result<RequestFacts, String>>,
    /// The last result of each rule's condition.
    last: Vec<Option<(ConditionSubject, Result<bool, String>)>>,
    evaluated: usize,
}

impl<'a> PolicyEvaluation<'a> {
    /// Starts an evaluation for the client of a query, with the grants of its credentials.
    pub fn new(policy: &'a Policy, query: PolicyQuery<'a>, grants: CredentialGrants<'a>) -> Self {
        let about = policy.rules().iter().map(|rule| policy.is_about(rule, &query)).collect();
        Self { policy, query, grants, about, facts: None, last: Vec::new(), evaluated: 0 }
    }

    /// Resets the budget of conditions: for listings, which have other bounds.
    pub fn renew_budget(&mut self) {
        self.evaluated = 0;
    }

    /// The number of evaluated conditions.
    pub fn evaluated(&self) -> usize {
        self.evaluated
    }

    /// Decides an action, with the reason.
    pub fn decide(
        &mut self,
        action: AccessAction,
        repository: Option<&'a RepositoryName>,
        tag: QueryTag<'a>,
    ) -> PolicyDecision {
        self.turn_to(action, repository, tag);
        if let Some(reason) = self.denial() {
            return PolicyDecision { allowed: false, reason };
        }
        match self.allowance() {
            Some(reason) => PolicyDecision { allowed: true, reason },
            None => PolicyDecision { allowed: false, reason: DecisionReason::NoRule },
        }
    }

    /// Whether the rules allow an action: the same as [`PolicyEvaluation::decide`], but if no rule
    /// allows it, deny rules are not evaluated.
    pub fn allows(
        &mut self,
        action: AccessAction,
        repository: Option<&'a RepositoryName>,
        tag: QueryTag<'a>,
    ) -> bool {
        self.turn_to(action, repository, tag);
        self.allowance().is_some() && self.denial().is_none()
    }

    fn turn_to(
        &mut self,
        action: AccessAction,
        repository: Option<&'a RepositoryName>,
        tag: QueryTag<'a>,
    ) {
        (self.query.action, self.query.repository, self.query.tag) = (action, repository, tag);
    }

    /// The reason of a denial, if a rule denies it.
    fn denial(&mut self) -> Option<DecisionReason> {
        for (index, rule) in self.policy.rules().iter().enumerate() {
            if !rule.denies || !self.concerns(index, rule) {
                continue;
            }
            match self.holds(index, rule, false) {
                Ok(true) => return Some(rule.reason(index)),
                Ok(false) => {}
                Err(error) => {
                    return Some(DecisionReason::Condition { name: rule.name.clone(), error });
                }
            }
        }
        None
    }

    /// The reason of an allowance, if the credentials or a rule allow it.
    fn allowance(&mut self) -> Option<DecisionReason> {
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

    fn concerns(&self, index: usize, rule: &PolicyRule) -> bool {
        self.about[index] && rule.covers(&self.query)
    }

    /// Whether a rule's condition holds; `unknown` if it depends on a tag that is not known yet.
    fn holds(&mut self, index: usize, rule: &PolicyRule, unknown: bool) -> Result<bool, String> {
        match &rule.condition {
            None => Ok(true),
            Some(condition) if condition.needs_tag() && self.query.tag == QueryTag::Unknown => {
                Ok(unknown)
            }
            Some(condition) => self.evaluate(index, condition),
        }
    }

    fn evaluate(&mut self, index: usize, condition: &PolicyCondition) -> Result<bool, String> {
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
        let facts = self.facts.get_or_insert_with(|| RequestFacts::new(query)).as_ref();
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

    /// An allow rule, and many deny rules with conditions.
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

    fn evaluation(policy: &Policy) -> PolicyEvaluation<'_> {
        let query = PolicyQuery {
            identity: &ANONYMOUS,
            certificate: None,
            action: AccessAction::Pull,
            repository: None,
            tag: QueryTag::No,
            address: None,
            now: SystemTime::UNIX_EPOCH,
        };
        PolicyEvaluation::new(policy, query, CredentialGrants::None)
    }

    fn names(prefix: &str, count: usize) -> Vec<RepositoryName> {
        (0..count).map(|number| format!("{prefix}/r{number}").parse().unwrap()).collect()
    }

    #[test]
    fn a_condition_is_evaluated_once_for_equal_variables() {
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
                for action in [AccessAction::Pull, AccessAction::Push] {
                    assert!(evaluation.allows(action, Some(name), QueryTag::No));
                    assert!(evaluation.decide(action, Some(name), QueryTag::No).allowed);
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
            assert!(!evaluation.allows(AccessAction::Pull, Some(name), QueryTag::No));
        }
        assert_eq!(evaluation.evaluated(), 0);
    }

    #[test]
    fn conditions_beyond_the_limit_grant_nothing() {
        let policy = policy(900, "repository == 'team{}/x'");
        let names = names("open", 30);
        let mut evaluation = evaluation(&policy);
        let allowed: Vec<bool> = names
            .iter()
            .map(|name| evaluation.allows(AccessAction::Pull, Some(name), QueryTag::No))
            .collect();
        let expected: Vec<bool> =
            (1..=30).map(|number| number * 900 <= CONDITIONS_EVALUATED_MAX).collect();
        assert_eq!(allowed, expected);
        assert_eq!(evaluation.evaluated(), CONDITIONS_EVALUATED_MAX);
        assert!(!evaluation.decide(AccessAction::Pull, Some(&names[29]), QueryTag::No).allowed);
    }
}
