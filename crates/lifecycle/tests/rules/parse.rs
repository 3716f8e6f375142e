//! Which files are rules, what is wrong with the others, and how rules read as sentences.

use jreg_lifecycle::{
    IMMUTABLE_RULES_MAX, KEEPS_MAX, LIFECYCLE_BYTES_MAX, LifecycleError, LifecycleRules,
    PATTERNS_MAX, QUOTAS_MAX, RETENTION_ENTRIES_MAX,
};

use crate::fixture::parse;

const EXAMPLE: &str = r#"
[[retention]]
repositories = ["team/**"]
untagged = "0s"
[[retention.keep]]
tags = ["v*", "latest"]
[[retention.keep]]
tags = ["pr-*"]
pushed_within = "14d"
[[retention.keep]]
pulled_within = "30d"
[[retention.keep]]
most_recent = 20

[[immutable]]
repositories = ["team/**"]
tags = ["v*"]
except = ["sha256-*"]

[[quota]]
repositories = ["team-a/**"]
bytes = "500GiB"
warn = "80%"
"#;

fn sentences(text: &str) -> Vec<String> {
    let rules = parse(text).unwrap().sentences();
    rules.into_iter().map(|(name, sentence)| format!("{name}: {sentence}")).collect()
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn retention(rest: &str) -> String {
    format!("[[retention]]\nrepositories = ['**']\n{rest}")
}

#[test]
fn each_rule_is_a_sentence() {
    assert_eq!(
        sentences(EXAMPLE),
        [
            "retention entry 1: In team/**, a tag is kept if it matches v* or latest, or matches \
             pr-* and was pushed within 14 days, or was pulled within 30 days, or is one of the 20 \
             most recently pushed; other tags are removed; manifests without a tag are removed once \
             history no longer keeps them.",
            "immutable rule 1: In team/**, tags that match v* but not sha256-* cannot be moved or \
             deleted; retention does not remove them.",
            "quota 1: Repositories that match team-a/** may hold 500GiB together; there are \
             warnings from 80% on.",
        ]
    );
}

#[test]
fn conditions_of_one_keep_are_joined_by_and() {
    for (keep, phrase) in [
        ("most_recent = 1", "is the most recently pushed"),
        ("tags = ['v*']\nmost_recent = 1", "is the most recently pushed that matches v*"),
        (
            "tags = ['v*', 'r-?', 'x']\nmost_recent = 3",
            "is one of the 3 most recently pushed that match v*, r-? or x",
        ),
        ("except = ['pr-*']", "matches anything but pr-*"),
        ("tags = ['v*']\nexcept = ['v0*', 'v1*']", "matches v* but not v0* or v1*"),
        (
            "tags = ['v*']\npushed_within = '36h'\npulled_within = '1d'",
            "matches v*, was pushed within 36 hours and was pulled within 1 day",
        ),
        (
            "most_recent = 5\npushed_within = '90m'",
            "is one of the 5 most recently pushed and was pushed within 90 minutes",
        ),
    ] {
        let [sentence] = &sentences(&retention(&format!("[[retention.keep]]\n{keep}")))[..] else {
            panic!("one entry");
        };
        let start = format!("retention entry 1: In **, a tag is kept if it {phrase}; other tags");
        assert!(sentence.starts_with(&start), "{sentence}");
    }
}

#[test]
fn untagged_and_expires_have_their_words() {
    let keep = "[[retention.keep]]\ntags = ['*']";
    for (untagged, words) in [
        ("", "are kept or removed as the setting gc-untagged says"),
        ("untagged = 'keep'", "are kept"),
        ("untagged = '0s'", "are removed once history no longer keeps them"),
        ("untagged = '7d'", "are removed 7 days after history no longer keeps them"),
    ] {
        let [sentence] = &sentences(&retention(&format!("{untagged}\n{keep}")))[..] else {
            panic!("one entry");
        };
        assert!(sentence.ends_with(&format!("; manifests without a tag {words}.")), "{sentence}");
    }
    let expires = "[[immutable]]\nrepositories = ['**']\ntags = ['*']\nexpires = true";
    assert_eq!(
        sentences(expires),
        ["immutable rule 1: In **, tags that match * cannot be moved or deleted; retention may \
          remove them."]
    );
}

#[test]
fn an_entry_that_is_never_used_is_remarked() {
    let entry = |pattern: &str| {
        format!("[[retention]]\nrepositories = {pattern}\n[[retention.keep]]\ntags = ['*']\n")
    };
    let remarks = |patterns: &[&str]| {
        let text: String = patterns.iter().map(|pattern| entry(pattern)).collect();
        parse(&text).unwrap().remarks()
    };
    assert_eq!(remarks(&["['a/**']", "['**']"]), [""; 0]);
    assert_eq!(remarks(&["['a/**', 'b']", "['a/**', 'c']"]), [""; 0]);
    for hidden in [["['**']", "['a/**']"], ["['a', 'b']", "['b']"]] {
        let [remark] = &remarks(&hidden)[..] else { panic!("{hidden:?}") };
        assert!(
            remark.starts_with("retention entry 2 is never used: retention entry 1"),
            "{remark}"
        );
    }
}

#[test]
fn a_file_without_rules_is_valid_and_has_another_hash_than_one_with_rules() {
    let none = parse("").unwrap();
    assert_eq!(none.sentences(), []);
    let some = parse(EXAMPLE).unwrap();
    assert_ne!(none.hash(), some.hash());
    assert_eq!(LifecycleRules::default().hash_number(), 0xe3b0_c442_98fc);
    assert!(some.need_pull_times() && !none.need_pull_times());
}

/// TOML that is cut off at the end of a line is TOML again, with fewer rules.
#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let text = format!("{EXAMPLE}\n[end]");
    let whole = LifecycleRules::parse(&text).unwrap();
    for end in 0..text.len() {
        let error = LifecycleRules::parse(&text[..end]).expect_err(&text[..end]);
        let is_syntax = error.to_string().starts_with("TOML parse error");
        assert!(error == LifecycleError::NoEnd || is_syntax || end < 120, "{end}: {error}");
    }
    for rest in ["\n", "\r\n", " # and no more\n", "\n\n# and no more", "\n#"] {
        let more = LifecycleRules::parse(&format!("{text}{rest}")).unwrap();
        assert_eq!(more.sentences(), whole.sentences(), "{rest:?}");
    }
    assert!(LifecycleRules::parse(&text.replace('\n', "\r\n")).is_ok());
}

#[test]
fn only_the_last_line_ends_a_file() {
    let quota = "[[quota]]\nrepositories = ['**']\nbytes = 1\n";
    for text in [
        String::new(),
        quota.to_owned(),
        format!("{quota}# [end]"),
        format!("{quota}[[end]]"),
        format!("[end]\n{quota}"),
        format!("end = {{}}\n{quota}"),
    ] {
        assert_eq!(LifecycleRules::parse(&text).unwrap_err(), LifecycleError::NoEnd, "{text}");
    }
    for text in [
        format!("{quota}[end.of]"),
        format!("{quota}[end]\nrules = 1\n"),
        format!("{quota}warn = \"\"\"80%\n[end]"),
        format!("{quota}[end]\n[end]"),
        format!("end = true\n{quota}[end]"),
    ] {
        let error = LifecycleRules::parse(&text).unwrap_err();
        assert!(matches!(error, LifecycleError::Syntax(_)), "{text}: {error}");
    }
    let refused = LifecycleRules::parse(quota).unwrap_err().to_string();
    assert!(refused.ends_with("so add [end] as the last line"), "{refused}");
}

#[test]
fn an_unknown_key_is_refused_with_the_allowed_ones() {
    let keep = "[[retention.keep]]\ntags = ['*']\n";
    for (text, unknown, allowed) in [
        ("[[retain]]\n".to_owned(), "`retain`", "`retention`, `immutable`, `quota`"),
        (retention(&format!("keeps = 1\n{keep}")), "`keeps`", "`repositories`, `untagged`, `keep`"),
        (
            retention(&format!("{keep}tag = 'v*'")),
            "`tag`",
            "`tags`, `except`, `pushed_within`, `pulled_within`, `most_recent`",
        ),
        (
            "[[immutable]]\nrepositories = ['**']\ntags = ['*']\nexpire = true".to_owned(),
            "`expire`",
            "`repositories`, `tags`, `except`, `expires`",
        ),
        (
            "[[quota]]\nrepositories = ['**']\nbytes = 1\nlimit = 2".to_owned(),
            "`limit`",
            "`repositories`, `bytes`, `warn`",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(&format!("unknown field {unknown}")), "{error}");
        assert!(error.contains(&format!("expected one of {allowed}")), "{error}");
        assert!(error.contains("at line "), "{error}");
    }
}

#[test]
fn a_wrong_rule_is_named_with_what_is_allowed() {
    let keep = |keep: &str| retention(&format!("[[retention.keep]]\n{keep}"));
    let quota = |rest: &str| format!("[[quota]]\nrepositories = ['**']\n{rest}");
    for (text, wanted) in [
        (
            retention(""),
            "retention entry 1: it has no [[retention.keep]], and would remove every tag",
        ),
        (
            keep(""),
            "retention entry 1: keep 1: it has no condition: set tags, except, pushed_within",
        ),
        (keep("tags = []"), "keep 1: tags is empty: name at least one pattern, such as \"v*\""),
        (
            keep("tags = ['[v]']"),
            "keep 1: invalid tag pattern \"[v]\": it may contain only letters",
        ),
        (keep("except = ['-x']"), "keep 1: invalid tag pattern \"-x\": no tag can match it"),
        (
            keep("pushed_within = '2w'"),
            "keep 1: pushed_within cannot be \"2w\": it must be a duration up to 3650d, such as",
        ),
        (keep("pushed_within = '0s'"), "pushed_within cannot be \"0s\""),
        (keep("pulled_within = '3651d'"), "pulled_within cannot be \"3651d\""),
        (keep("most_recent = 0"), "most_recent cannot be 0: it must be a number from 1 to 1000000"),
        (keep("most_recent = -1"), "most_recent cannot be -1"),
        (
            retention("untagged = 'never'\n[[retention.keep]]\ntags = ['*']"),
            "retention entry 1: untagged cannot be \"never\": it must be \"keep\", or a duration",
        ),
        (
            "[[retention]]\nrepositories = []\n[[retention.keep]]\ntags = ['*']".to_owned(),
            "retention entry 1: repositories is empty: name at least one pattern, such as \"team/**\"",
        ),
        (
            "[[immutable]]\nrepositories = ['Team/**']\ntags = ['*']".to_owned(),
            "immutable rule 1: invalid repository pattern \"Team/**\"",
        ),
        (
            "[[immutable]]\nrepositories = ['**']\ntags = []".to_owned(),
            "immutable rule 1: tags is empty",
        ),
        (quota("bytes = '500GB'"), "quota 1: bytes cannot be \"500GB\": it must be a size such as"),
        (quota("bytes = 0"), "quota 1: bytes cannot be \"0\""),
        (
            quota("bytes = 1\nwarn = '0.8'"),
            "quota 1: warn cannot be \"0.8\": it must be a percentage",
        ),
        (quota("bytes = 1\nwarn = '101%'"), "quota 1: warn cannot be \"101%\""),
        ("[[quota]]\nrepositories = ['**']".to_owned(), "missing field `bytes`"),
        ("[[immutable]]\nrepositories = ['**']".to_owned(), "missing field `tags`"),
        ("retention = 1".to_owned(), "invalid type: integer `1`"),
        ("[[retention]".to_owned(), "at line 1"),
    ] {
        let error = error(&text);
        assert!(error.contains(wanted), "{text}\n{error}\n{wanted}");
    }
}

#[test]
fn numbers_and_lengths_have_limits() {
    let keep = "[[retention.keep]]\ntags = ['*']\n";
    let entry = retention(keep) + "\n";
    let immutable = "[[immutable]]\nrepositories = ['**']\ntags = ['*']\n";
    let quota = "[[quota]]\nrepositories = ['**']\nbytes = '1KiB'\n";
    for (text, max, what) in [
        (entry.as_str(), RETENTION_ENTRIES_MAX, "retention entries"),
        (immutable, IMMUTABLE_RULES_MAX, "immutable rules"),
        (quota, QUOTAS_MAX, "quotas"),
    ] {
        assert!(parse(&text.repeat(max)).is_ok(), "{what}");
        assert_eq!(error(&text.repeat(max + 1)), format!("it has more than {max} {what}"));
    }
    assert!(parse(&retention(&keep.repeat(KEEPS_MAX))).is_ok());
    assert_eq!(
        error(&retention(&keep.repeat(KEEPS_MAX + 1))),
        format!("retention entry 1: it has more than {KEEPS_MAX} [[retention.keep]]")
    );
    let patterns = |number: usize| {
        let list = vec!["'v*'"; number].join(", ");
        retention(&format!("[[retention.keep]]\ntags = [{list}]"))
    };
    assert!(parse(&patterns(PATTERNS_MAX)).is_ok());
    assert_eq!(
        error(&patterns(PATTERNS_MAX + 1)),
        format!("retention entry 1: keep 1: tags has more than {PATTERNS_MAX} patterns")
    );
    let padding = |bytes: usize| format!("#{}\n[end]", " ".repeat(bytes - 7));
    assert!(LifecycleRules::parse(&padding(LIFECYCLE_BYTES_MAX)).is_ok());
    let error = LifecycleRules::parse(&padding(LIFECYCLE_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(error.to_string(), "it is larger than 1048576 bytes");
}
