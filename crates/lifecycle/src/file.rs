//! [`LifecycleRules`]: a parsed lifecycle file.

use std::time::Duration;

use jreg_oci::{Algorithm, Digest, RepositoryName, RepositoryPattern, TagPattern};
use serde::{Deserialize, Deserializer, de};

use crate::immutable::{ImmutableRule, ImmutableRules};
use crate::quota::{QuotaPool, QuotaRules};
use crate::retention::{RetentionEntry, RetentionKeep, UntaggedRule};

/// Maximum size of a lifecycle file, in bytes.
pub const LIFECYCLE_BYTES_MAX: usize = 1024 * 1024;
/// Maximum `[[retention]]` entries.
pub const RETENTION_ENTRIES_MAX: usize = 1000;
/// Maximum `[[retention.keep]]` of one entry.
pub const KEEPS_MAX: usize = 100;
/// Maximum `[[immutable]]` rules, each of which may be looked at for each push.
pub const IMMUTABLE_RULES_MAX: usize = 1000;
/// Maximum `[[quota]]` pools.
pub const QUOTAS_MAX: usize = 1000;
/// Maximum patterns of one list.
pub const PATTERNS_MAX: usize = 100;
/// Maximum of `pushed_within`, `pulled_within` and `untagged`.
const WITHIN_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Maximum of `most_recent`.
const MOST_RECENT_MAX: usize = 1_000_000;
/// `warn` of a pool that has none.
const WARN_PERCENT: u8 = 80;

/// The rules of a lifecycle file.
#[derive(Clone, Debug)]
pub struct LifecycleRules {
    pub(crate) retention: Vec<RetentionEntry>,
    immutable: ImmutableRules,
    quotas: QuotaRules,
    /// Each pull asks for it.
    need_pull_times: bool,
    hash: Digest,
}

/// Error of an invalid lifecycle file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifecycleError {
    #[error("it is larger than {LIFECYCLE_BYTES_MAX} bytes")]
    TooLarge,
    /// Not TOML, or unknown keys.
    #[error("{0}")]
    Syntax(String),
    #[error("it has more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    /// The rules at its end may be missing.
    #[error(
        "its last line is not [end]: a file that was cut off could keep or protect fewer tags, so \
         add [end] as the last line"
    )]
    NoEnd,
    #[error("{what} {number}: {why}")]
    Rule {
        /// The kind of rule.
        what: &'static str,
        /// From 1.
        number: usize,
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSpec {
    #[serde(default)]
    retention: Vec<RetentionSpec>,
    #[serde(default)]
    immutable: Vec<ImmutableSpec>,
    #[serde(default)]
    quota: Vec<QuotaSpec>,
    end: Option<EndSpec>,
}

/// The last line of a file: TOML that is cut off at the end of a line is TOML again, with fewer rules.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndSpec {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionSpec {
    repositories: Vec<String>,
    untagged: Option<String>,
    #[serde(default)]
    keep: Vec<KeepSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepSpec {
    tags: Option<Vec<String>>,
    except: Option<Vec<String>>,
    pushed_within: Option<String>,
    pulled_within: Option<String>,
    most_recent: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImmutableSpec {
    repositories: Vec<String>,
    tags: Vec<String>,
    except: Option<Vec<String>>,
    #[serde(default)]
    expires: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaSpec {
    repositories: Vec<String>,
    #[serde(deserialize_with = "text_or_number")]
    bytes: String,
    warn: Option<String>,
}

/// A size may be a number, as in the settings.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct TextOrNumber;

    impl de::Visitor<'_> for TextOrNumber {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a size such as \"500GiB\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }

    deserializer.deserialize_any(TextOrNumber)
}

impl Default for LifecycleRules {
    /// No rules: every tag is kept and may move, and nothing is limited.
    fn default() -> Self {
        Self {
            retention: Vec::new(),
            immutable: ImmutableRules::default(),
            quotas: QuotaRules::default(),
            need_pull_times: false,
            hash: Digest::of(Algorithm::Sha256, b""),
        }
    }
}

impl LifecycleRules {
    /// Parses a lifecycle file, whose last line is `[end]`.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`].
    pub fn parse(text: &str) -> Result<Self, LifecycleError> {
        if text.len() > LIFECYCLE_BYTES_MAX {
            return Err(LifecycleError::TooLarge);
        }
        let spec: FileSpec =
            toml::from_str(text).map_err(|error| LifecycleError::Syntax(error.to_string()))?;
        if spec.end.is_none() || !ends_with_end(text) {
            return Err(LifecycleError::NoEnd);
        }
        let entries = (spec.retention, "retention entries", RETENTION_ENTRIES_MAX);
        let rules = (spec.immutable, "immutable rules", IMMUTABLE_RULES_MAX);
        let retention: Vec<RetentionEntry> = all(entries, "retention entry", retention_entry)?;
        Ok(Self {
            need_pull_times: retention.iter().any(RetentionEntry::needs_pull_times),
            retention,
            immutable: ImmutableRules::new(all(rules, "immutable rule", immutable_rule)?),
            quotas: QuotaRules::new(all((spec.quota, "quotas", QUOTAS_MAX), "quota", quota_pool)?),
            hash: Digest::of(Algorithm::Sha256, text.as_bytes()),
        })
    }

    pub fn retention(&self) -> &[RetentionEntry] {
        &self.retention
    }

    /// The entry that decides about a repository, with its number from 1.
    pub fn retention_of(&self, repository: &RepositoryName) -> Option<(usize, &RetentionEntry)> {
        (1..).zip(&self.retention).find(|(_, entry)| entry.matches(repository))
    }

    pub fn immutable(&self) -> &ImmutableRules {
        &self.immutable
    }

    pub fn quotas(&self) -> &QuotaRules {
        &self.quotas
    }

    /// Whether any rule needs to know when tags are pulled.
    pub fn need_pull_times(&self) -> bool {
        self.need_pull_times
    }

    /// SHA-256 of the file.
    pub fn hash(&self) -> &Digest {
        &self.hash
    }

    /// The first 48 bits of the hash, which a metric shows exactly.
    pub fn hash_number(&self) -> u64 {
        let hex = self.hash.hex();
        hex.get(..12).and_then(|start| u64::from_str_radix(start, 16).ok()).unwrap_or_default()
    }
}

/// Whether `[end]` is the last line that is neither empty nor a comment.
fn ends_with_end(text: &str) -> bool {
    let mut lines = text.lines().rev().map(|line| match line.split_once('#') {
        Some((before, _comment)) => before.trim(),
        None => line.trim(),
    });
    lines.find(|line| !line.is_empty()) == Some("[end]")
}

/// Checks the number of rules of one kind, and each of them.
fn all<S, R>(
    (specs, plural, max): (Vec<S>, &'static str, usize),
    what: &'static str,
    rule: fn(S) -> Result<R, String>,
) -> Result<Vec<R>, LifecycleError> {
    if specs.len() > max {
        return Err(LifecycleError::TooMany { what: plural, max });
    }
    let rules = (1..).zip(specs);
    rules
        .map(|(number, spec)| rule(spec).map_err(|why| LifecycleError::Rule { what, number, why }))
        .collect()
}

fn retention_entry(spec: RetentionSpec) -> Result<RetentionEntry, String> {
    let repositories = repositories(&spec.repositories)?;
    let untagged = spec.untagged.as_deref().map(untagged).transpose()?;
    if spec.keep.is_empty() {
        return Err("it has no [[retention.keep]], and would remove every tag: say what is kept, \
                    or leave the entry out"
            .to_owned());
    }
    if spec.keep.len() > KEEPS_MAX {
        return Err(format!("it has more than {KEEPS_MAX} [[retention.keep]]"));
    }
    let keeps = (1..).zip(spec.keep);
    let keeps =
        keeps.map(|(number, spec)| keep(spec).map_err(|why| format!("keep {number}: {why}")));
    Ok(RetentionEntry { repositories, untagged, keeps: keeps.collect::<Result<_, _>>()? })
}

fn untagged(text: &str) -> Result<UntaggedRule, String> {
    if text == "keep" {
        return Ok(UntaggedRule::Keep);
    }
    let after = jreg_units::parse_duration(text).filter(|after| *after <= WITHIN_MAX);
    after.map(UntaggedRule::RemoveAfter).ok_or_else(|| {
        format!(
            "untagged cannot be {text:?}: it must be \"keep\", or a duration up to 3650d such as \
             \"0s\" or \"7d\""
        )
    })
}

fn keep(spec: KeepSpec) -> Result<RetentionKeep, String> {
    let keep = RetentionKeep {
        tags: optional_tags("tags", spec.tags.as_deref())?,
        except: optional_tags("except", spec.except.as_deref())?,
        pushed_within: within("pushed_within", spec.pushed_within.as_deref())?,
        pulled_within: within("pulled_within", spec.pulled_within.as_deref())?,
        most_recent: spec.most_recent.map(most_recent).transpose()?,
    };
    if keep == RetentionKeep::default() {
        return Err("it has no condition: set tags, except, pushed_within, pulled_within or \
                    most_recent (tags = [\"*\"] keeps every tag)"
            .to_owned());
    }
    Ok(keep)
}

fn within(key: &str, text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let allowed = |within: &Duration| !within.is_zero() && *within <= WITHIN_MAX;
    let parsed = jreg_units::parse_duration(text).filter(allowed);
    parsed.map(Some).ok_or_else(|| {
        format!(
            "{key} cannot be {text:?}: it must be a duration up to 3650d, such as \"36h\" or \
             \"14d\""
        )
    })
}

fn most_recent(number: i64) -> Result<usize, String> {
    let parsed = usize::try_from(number).ok().filter(|n| (1..=MOST_RECENT_MAX).contains(n));
    parsed.ok_or_else(|| {
        format!("most_recent cannot be {number}: it must be a number from 1 to {MOST_RECENT_MAX}")
    })
}

fn immutable_rule(spec: ImmutableSpec) -> Result<ImmutableRule, String> {
    Ok(ImmutableRule {
        repositories: repositories(&spec.repositories)?,
        tags: tags("tags", &spec.tags)?,
        except: optional_tags("except", spec.except.as_deref())?,
        expires: spec.expires,
    })
}

fn quota_pool(spec: QuotaSpec) -> Result<QuotaPool, String> {
    let repositories = repositories(&spec.repositories)?;
    let text = &spec.bytes;
    let bytes = jreg_units::parse_size(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
        format!("bytes cannot be {text:?}: it must be a size such as \"500GiB\", and more than 0")
    })?;
    let warn_percent = match &spec.warn {
        Some(text) => percent(text)?,
        None => WARN_PERCENT,
    };
    Ok(QuotaPool { repositories, bytes, warn_percent })
}

fn percent(text: &str) -> Result<u8, String> {
    let parsed = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<u8>().ok());
    parsed.filter(|percent| (1..=100).contains(percent)).ok_or_else(|| {
        format!("warn cannot be {text:?}: it must be a percentage from \"1%\" to \"100%\"")
    })
}

fn repositories(texts: &[String]) -> Result<Vec<RepositoryPattern>, String> {
    patterns("repositories", "\"team/**\", or \"**\" for all", texts)
}

fn tags(key: &str, texts: &[String]) -> Result<Vec<TagPattern>, String> {
    patterns(key, "\"v*\", or \"*\" for all", texts)
}

fn optional_tags(key: &str, texts: Option<&[String]>) -> Result<Vec<TagPattern>, String> {
    texts.map_or(Ok(Vec::new()), |texts| tags(key, texts))
}

fn patterns<P: std::str::FromStr>(
    key: &str,
    example: &str,
    texts: &[String],
) -> Result<Vec<P>, String>
where
    P::Err: std::fmt::Display,
{
    if texts.is_empty() {
        return Err(format!("{key} is empty: name at least one pattern, such as {example}"));
    }
    if texts.len() > PATTERNS_MAX {
        return Err(format!("{key} has more than {PATTERNS_MAX} patterns"));
    }
    texts.iter().map(|text| text.parse().map_err(|error: P::Err| error.to_string())).collect()
}
