//! [`PolicyCondition`]: a CEL expression that a rule depends on (github.com/google/cel-spec).
//!
//! It is compiled when the policy is loaded. The cost of an evaluation is bounded by the limits on the
//! text: CEL has no loops except its macros, at most one of which is allowed, over a list
//! of the request (groups, claims: bounded by the size of a token) or a literal.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use cel::objects::Value;
use cel::{Context, Env, ExecutionError, Program};
use ipnet::IpNet;
use serde_json::Value as Json;

use crate::expression::ExpressionContents;
use crate::policy::PolicyQuery;
use crate::tested::TestedClaims;
use crate::{AccessAction, Identity, IdentitySource};

/// Maximum length of a condition, in bytes.
pub const CONDITION_BYTES_MAX: usize = 2048;
/// Maximum nesting depth of brackets in a condition.
pub const CONDITION_DEPTH_MAX: usize = 16;
/// Maximum macros that iterate over a list or map (`all`, `exists`, `exists_one`, `map`, `filter`) in
/// one condition.
pub const CONDITION_LOOPS_MAX: usize = 1;

const LOOPS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];

/// The variables of a condition.
const VARIABLES: [&str; 9] =
    ["identity", "repository", "tag", "action", "address", "now", "hour", "weekday", "certificate"];

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition.
pub(crate) struct PolicyCondition {
    source: String,
    program: Program,
    needs: ConditionInputs,
    tested: TestedClaims,
}

/// The variables of a condition that differ between decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConditionInputs {
    repository: bool,
    action: bool,
    tag: bool,
}

/// The values of these variables in an evaluation: equal subjects have equal results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionSubject {
    repository: Option<String>,
    action: Option<AccessAction>,
    tag: Option<String>,
}

/// The other variables: the same for all decisions of a request.
pub(crate) struct RequestFacts(Context<'static, 'static>);

impl PolicyCondition {
    /// Compiles a condition.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > CONDITION_BYTES_MAX {
            return Err(format!("it is longer than {CONDITION_BYTES_MAX} bytes"));
        }
        if depth(source) > CONDITION_DEPTH_MAX {
            return Err(format!("brackets are nested deeper than {CONDITION_DEPTH_MAX}"));
        }
        let program = ENVIRONMENT.compile(source).map_err(|error| error.to_string())?;
        let references = program.references();
        let contents = ExpressionContents::of(program.expression());
        if contents.loops > CONDITION_LOOPS_MAX {
            return Err(format!(
                "it has more than {CONDITION_LOOPS_MAX} of the macros {}",
                LOOPS.join(", ")
            ));
        }
        if let Some(unknown) = contents.free_variables.iter().find(|name| !VARIABLES.contains(name))
        {
            return Err(format!("{unknown:?} is none of {}", VARIABLES.join(", ")));
        }
        let needs = ConditionInputs {
            repository: references.has_variable("repository"),
            action: references.has_variable("action"),
            tag: references.has_variable("tag"),
        };
        let tested = contents.tested;
        Ok(Self { source: source.to_owned(), program, needs, tested })
    }

    /// The claims and groups that it reads.
    pub(crate) fn tested(&self) -> &TestedClaims {
        &self.tested
    }

    /// Whether it depends on the tag.
    pub(crate) fn needs_tag(&self) -> bool {
        self.needs.tag
    }

    /// The variables of a query that the result depends on.
    pub(crate) fn subject(&self, query: &PolicyQuery<'_>) -> ConditionSubject {
        let ConditionInputs { repository, action, tag } = self.needs;
        ConditionSubject {
            repository: repository.then(|| repository_of(query).to_owned()),
            action: action.then_some(query.action),
            tag: tag.then(|| query.tag.known().unwrap_or_default().to_owned()),
        }
    }

    /// Whether it holds; an error if it cannot be evaluated, or is no boolean.
    pub(crate) fn holds(
        &self,
        facts: &RequestFacts,
        query: &PolicyQuery<'_>,
    ) -> Result<bool, String> {
        let mut context = facts.0.new_inner_scope();
        context.add_variable_from_value("repository", Value::from(repository_of(query)));
        context.add_variable_from_value("action", Value::from(query.action.as_str()));
        let tag = query.tag.known().unwrap_or_default();
        context.add_variable_from_value("tag", Value::from(tag));
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it is neither true nor false".to_owned()),
            // The library's messages contain values of the request, which may be anything.
            Err(ExecutionError::NoSuchKey(key)) => Err(format!("there is no {key:?}")),
            Err(_) => Err("it cannot be evaluated for this request".to_owned()),
        }
    }
}

impl RequestFacts {
    /// Builds the variables of a query.
    pub(crate) fn new(query: &PolicyQuery<'_>) -> Result<Self, String> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.add_function("in_network", in_network).map_err(|error| error.to_string())?;
        for (name, value) in variables(query) {
            context.add_variable_from_value(name, value);
        }
        Ok(Self(context))
    }
}

impl fmt::Debug for RequestFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Facts")
    }
}

impl fmt::Debug for PolicyCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

fn depth(source: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for c in source.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// `in_network(address, "10.0.0.0/8")`.
fn in_network(address: Arc<String>, network: Arc<String>) -> Result<bool, ExecutionError> {
    let Ok(network) = network.parse::<IpNet>() else {
        return Err(ExecutionError::function_error("in_network", "no network"));
    };
    Ok(address.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)))
}

fn repository_of<'a>(query: &PolicyQuery<'a>) -> &'a str {
    query.repository.map_or("", |name| name.as_str())
}

fn variables(query: &PolicyQuery<'_>) -> [(&'static str, Value); 6] {
    let since = query.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let number = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let text = |text: &str| Value::from(text);
    let certificate = query.certificate;
    let names = [
        ("cn", text(certificate.and_then(|of| of.common_name.as_deref()).unwrap_or_default())),
        ("uris", Value::from(certificate.map(|of| of.uris.clone()).unwrap_or_default())),
    ];
    [
        ("identity", identity(query.identity)),
        ("address", Value::from(query.address.map(|ip| ip.to_string()).unwrap_or_default())),
        ("now", number(since)),
        ("hour", number(since / 3600 % 24)),
        // The epoch began on a Thursday; 0 is Sunday, as in CEL's getDayOfWeek.
        ("weekday", number((since / 86_400 + 4) % 7)),
        ("certificate", Value::from(HashMap::from(names))),
    ]
}

fn identity(identity: &Identity) -> Value {
    let (name, source, groups, claims) = match identity {
        Identity::Anonymous => ("", "anonymous", Vec::new(), HashMap::new()),
        Identity::Named(named) => {
            let source = match named.source {
                IdentitySource::Htpasswd => "htpasswd",
                IdentitySource::AccessToken(_) => "access-token",
                IdentitySource::Issuer(_) => "issuer",
                IdentitySource::Certificate => "certificate",
                IdentitySource::Operator => "operator",
            };
            let claims = named.claims.iter().map(|(name, value)| (name.clone(), of_json(value)));
            (named.name.as_str(), source, named.groups.iter().cloned().collect(), claims.collect())
        }
    };
    Value::from(HashMap::from([
        ("name", Value::from(name)),
        ("source", Value::from(source)),
        ("groups", Value::from(groups)),
        ("claims", Value::from(claims)),
    ]))
}

fn of_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(of_json).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from(
            fields.iter().map(|(k, v)| (k.clone(), of_json(v))).collect::<HashMap<_, _>>(),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{ClientCertificate, NamedIdentity, QueryTag};

    fn holds(source: &str) -> Result<bool, String> {
        let identity = Identity::Named(Box::new(NamedIdentity {
            name: "github:acme/app".to_owned(),
            groups: ["github:ci".to_owned()].into(),
            claims: [
                ("ref".to_owned(), "refs/heads/main".into()),
                ("run_attempt".to_owned(), 2.into()),
            ]
            .into(),
            source: IdentitySource::Issuer("github".to_owned()),
        }));
        let repository = "acme/app".parse().unwrap();
        let certificate = ClientCertificate {
            common_name: Some("builder".to_owned()),
            uris: vec!["spiffe://x".to_owned()],
        };
        let query = PolicyQuery {
            identity: &identity,
            certificate: Some(&certificate),
            action: AccessAction::Push,
            repository: Some(&repository),
            tag: QueryTag::Is("v1"),
            address: Some("10.1.2.3".parse().unwrap()),
            // A Monday, 12:00.
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_720_440_000),
        };
        PolicyCondition::compile(source)?.holds(&RequestFacts::new(&query)?, &query)
    }

    #[test]
    fn conditions_see_the_request() {
        for source in [
            "identity.name == 'github:acme/app' && identity.source == 'issuer'",
            "identity.claims.ref == 'refs/heads/main' && identity.claims.run_attempt > 1",
            "identity.name == 'github:' + repository",
            "'github:ci' in identity.groups",
            "identity.groups.exists(g, g.startsWith('github:'))",
            "tag.startsWith('v') && action == 'push'",
            "in_network(address, '10.0.0.0/8') && !in_network(address, '192.168.0.0/16')",
            "hour == 12 && weekday == 1 && now > 1720000000",
            "certificate.cn == 'builder' && 'spiffe://x' in certificate.uris",
            "!has(identity.claims.environment)",
        ] {
            assert_eq!(holds(source), Ok(true), "{source}");
        }
        assert_eq!(holds("tag == 'v2'"), Ok(false));
    }

    #[test]
    fn conditions_that_cannot_be_evaluated_are_errors() {
        for source in [
            "identity.claims.environment == 'prod'",
            "tag",
            "identity.name > 1",
            "1 / 0 == 1",
            "in_network(address, 'nowhere')",
        ] {
            assert!(holds(source).is_err(), "{source}");
        }
    }

    #[test]
    fn invalid_conditions_are_rejected_when_the_policy_is_loaded() {
        let deep = "(".repeat(50) + "true" + &")".repeat(50);
        let long = format!("tag == '{}'", "x".repeat(CONDITION_BYTES_MAX));
        let nested = "[1,2].all(a, [1,2].all(b, true))";
        for source in ["", "tag ==", "tagg == 'x'", "user.name == 'x'", &deep, &long, nested] {
            assert!(PolicyCondition::compile(source).is_err(), "{source}");
        }
    }

    #[test]
    fn a_macro_hides_no_unknown_variable() {
        for source in [
            "identity.groups.exists(g, g == tagg)",
            "identity.groups.exists(g, true) && g == 'x'",
            "g.exists(g, true)",
            "groups.all(g, g == tag)",
            "['a'].map(a, a + b).size() == 1",
            "tagg == 'x' || ['a'].filter(a, a == tag) == []",
        ] {
            let error = PolicyCondition::compile(source).unwrap_err();
            assert!(error.contains("is none of identity, "), "{source}: {error}");
        }
        for source in [
            "identity.groups.exists(g, g == tag)",
            "['a'].map(a, a == 'b', a + tag).size() == 0",
            "[tag].filter(tag, tag == 'v1').size() == 1",
            "[{'a': [tag]}].exists_one(a, 'a' in a)",
        ] {
            PolicyCondition::compile(source).unwrap();
        }
    }

    #[test]
    fn every_macro_that_loops_is_counted_however_it_is_spelt() {
        for name in ["all", "exists", "exists_one", "existsOne", "map", "filter"] {
            for nested in [
                format!("[1].{name}(a, [1].{name}(b, true) == true) == true"),
                format!("[1] . {name} (a, true) == true && [1].{name}(b, true) == true"),
            ] {
                let error = PolicyCondition::compile(&nested).unwrap_err();
                assert!(error.contains("more than 1 of the macros"), "{nested}: {error}");
            }
        }
        PolicyCondition::compile("tag == '.all(.all('").unwrap();
    }
}
