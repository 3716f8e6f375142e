//! The settings in docs/mirror.md and docs/mirror-credentials.md are ones that jreg takes.

use std::path::Path;

use jreg_config::{Settings, read_file};

const PAGES: [&str; 2] =
    [include_str!("../../docs/mirror.md"), include_str!("../../docs/mirror-credentials.md")];

/// The blocks of a page that are TOML.
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0))
}

#[test]
fn the_mirrors_of_the_documentation_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = format!("{}/", folder.path().display());
    for name in ["example", "docker-hub", "ghcr"] {
        std::fs::write(folder.path().join(name), "secret\n").unwrap();
    }
    let mut mirrors = 0;
    for block in PAGES.iter().flat_map(|page| blocks(page)) {
        if !block.contains("[[mirror]]") {
            continue;
        }
        let text = block.replace("/run/secrets/", &secrets);
        let read = read_file(Path::new("docs.toml"), &text);
        let settings = read.and_then(Settings::resolve);
        let settings = settings.unwrap_or_else(|error| panic!("{error}\n{block}"));
        mirrors += settings.mirrors.len();
    }
    assert!(mirrors >= 8, "{mirrors}");
}

/// The rule that allows anonymous clients to have images fetched.
#[test]
fn the_rule_of_the_documentation_is_valid() {
    let rules: Vec<&str> = PAGES
        .iter()
        .flat_map(|page| blocks(page))
        .filter(|it| it.starts_with("[[rule]]"))
        .collect();
    assert!(!rules.is_empty());
    for rule in rules {
        jreg_auth::Policy::parse(rule).unwrap_or_else(|error| panic!("{error}\n{rule}"));
    }
}
