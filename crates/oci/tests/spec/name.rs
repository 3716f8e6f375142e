//! Repository names and tags.

use jreg_oci::{RepositoryName, Tag};
use proptest::prelude::*;

#[test]
fn names_of_the_grammar_are_accepted() {
    let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
    let accepted = [
        "a",
        "0",
        "alpine",
        "library/alpine",
        "a/b/c/d/e/f/g/h/i/j",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a--b",
        "a-----b",
        "a.b-c_d__e",
        "1/2",
        "blobs",
        "blobs/uploads",
        "tags/list",
        "manifests/referrers",
        "v2",
        "registry.example.org/team/app",
        "xn--caf-dma",
        &longest,
    ];
    for text in accepted {
        let name: RepositoryName = text.parse().unwrap();
        assert_eq!(name.as_str(), text);
        assert_eq!(name.to_string(), text);
        assert_eq!(String::from(name), text);
    }
}

#[test]
fn other_names_are_refused() {
    let too_long = "a".repeat(256);
    let refused = [
        ("", "empty"),
        (&too_long, "too long"),
        ("A", "upper case"),
        ("a/B", "upper case further on"),
        ("/a", "slash in front"),
        ("a/", "slash behind"),
        ("a//b", "two slashes"),
        ("/", "only a slash"),
        (".", "dot"),
        ("..", "dots"),
        ("../a", "parent"),
        ("a/../b", "parent inside"),
        ("a/./b", "here inside"),
        ("a..b", "two dots"),
        ("a___b", "three underscores"),
        ("a._b", "mixed separators"),
        ("a-_b", "mixed separators"),
        ("a.-b", "mixed separators"),
        ("-a", "separator in front"),
        ("_a", "separator in front"),
        (".a", "separator in front"),
        ("a-", "separator behind"),
        ("a_/b", "separator behind a component"),
        ("_catalog", "a word of the paths"),
        ("a/_tags", "a word of the store"),
        ("a b", "space"),
        ("a\0b", "NUL"),
        ("a\nb", "line feed"),
        ("a%2fb", "percent"),
        ("a\\b", "backslash"),
        ("a:b", "colon"),
        ("a@b", "at sign"),
        ("a+b", "plus"),
        ("é", "not ASCII"),
        ("аlpine", "Cyrillic letter"),
        ("１", "digit beyond ASCII"),
    ];
    for (text, why) in refused {
        let error = text.parse::<RepositoryName>().unwrap_err().to_string();
        assert!(error.starts_with("invalid repository name"), "{why}: {error}");
        assert!(error.contains("must be"), "{why}: {error}");
    }
}

#[test]
fn tags_of_the_grammar_are_accepted() {
    let longest = "a".repeat(128);
    let accepted = [
        "latest",
        "v1",
        "V1",
        "1.2.3",
        "_",
        "__",
        "_a",
        "a.",
        "a-",
        "a..b",
        "a--b",
        "1.0_build.5",
        "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.sig",
        &longest,
    ];
    for text in accepted {
        let tag: Tag = text.parse().unwrap();
        assert_eq!((tag.as_str(), tag.to_string().as_str()), (text, text));
        assert_eq!(String::from(tag), text);
    }
}

#[test]
fn other_tags_are_refused() {
    let too_long = "a".repeat(129);
    let refused = [
        ("", "1 to 128"),
        (&too_long, "1 to 128"),
        (".", "must start"),
        ("..", "must start"),
        ("-a", "must start"),
        (".hidden", "must start"),
        ("é", "must start"),
        ("a/b", "may contain"),
        ("a:b", "may contain"),
        ("a+b", "may contain"),
        ("a b", "may contain"),
        ("a\0", "may contain"),
        ("a\n", "may contain"),
        ("a%41", "may contain"),
        ("aé", "may contain"),
    ];
    for (text, reason) in refused {
        let error = text.parse::<Tag>().unwrap_err().to_string();
        assert!(error.starts_with("invalid tag"), "{error}");
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn upper_and_lower_case_tags_differ() {
    assert_ne!("v1".parse::<Tag>().unwrap(), "V1".parse::<Tag>().unwrap());
}

#[test]
fn json_is_validated_too() {
    assert!(serde_json::from_str::<RepositoryName>("\"a/../b\"").is_err());
    assert!(serde_json::from_str::<Tag>("\"a/b\"").is_err());
}

/// The specification's regular expression, for proptest to generate from.
const NAME: &str = r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,3}(/[a-z0-9]{1,3}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}){0,4}";

proptest! {
    #[test]
    fn every_name_of_the_expression_is_accepted(text in NAME) {
        let name: RepositoryName = text.parse().unwrap();
        prop_assert_eq!(name.as_str(), text.as_str());
        let json = serde_json::to_string(&name).unwrap();
        prop_assert_eq!(serde_json::from_str::<RepositoryName>(&json).unwrap(), name);
    }

    #[test]
    fn every_tag_of_the_expression_is_accepted(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
        let tag: Tag = text.parse().unwrap();
        prop_assert_eq!(tag.as_str(), text.as_str());
        let json = serde_json::to_string(&tag).unwrap();
        prop_assert_eq!(serde_json::from_str::<Tag>(&json).unwrap(), tag);
    }

    /// The store relies on these to make keys and file names of names.
    #[test]
    fn what_is_accepted_is_safe_in_a_path(text in "[a-c._/-]{0,12}|\\PC*") {
        if let Ok(name) = text.parse::<RepositoryName>() {
            let is_safe = |part: &str| {
                !part.is_empty() && !part.starts_with(['_', '.', '-']) && !part.contains("..")
            };
            prop_assert!(name.as_str().split('/').all(is_safe));
        }
        if let Ok(tag) = text.parse::<Tag>() {
            prop_assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
        }
    }
}
