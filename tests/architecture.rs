//! Conventions as a check: which crate may depend on what, and what no source file may contain.

#![allow(clippy::unwrap_used)]

#[path = "architecture/registry_modules.rs"]
mod registry_modules;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use registry_modules::REGISTRY_MODULES;

/// The most lines of one file: more is several nouns in one.
const LINES_MAX: usize = 900;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of a crate's ordinary dependencies.
fn dependencies(krate: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("crates").join(krate).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let ordinary = manifest["dependencies"].as_table().unwrap().keys().cloned();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let of_targets = targets.into_iter().flat_map(toml::Table::values);
    let of_targets = of_targets
        .filter_map(|target| target.get("dependencies")?.as_table())
        .flat_map(toml::Table::keys);
    ordinary.chain(of_targets.cloned()).collect()
}

#[track_caller]
fn depends_on_none_of(krate: &str, banned: &[&str]) {
    let found: Vec<_> =
        dependencies(krate).into_iter().filter(|name| banned.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "crates/{krate} depends on {found:?}");
}

#[test]
fn specifications_are_values_without_io() {
    let allowed = ["serde", "serde_json", "sha2", "thiserror"];
    let others: Vec<_> =
        dependencies("oci").into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "crates/oci depends on {others:?}");
}

/// What crates of values without I/O do not depend on.
const IO: [&str; 10] = [
    "jreg",
    "jreg-storage",
    "jreg-registry",
    "axum",
    "hyper",
    "http",
    "clap",
    "tokio",
    "reqwest",
    "tracing",
];

#[test]
fn identity_and_policy_are_values_without_io() {
    depends_on_none_of("auth", &IO);
}

#[test]
fn lifecycle_rules_are_values_without_io() {
    depends_on_none_of("lifecycle", &IO);
}

#[test]
fn pages_are_values_without_io() {
    depends_on_none_of("ui", &IO);
}

#[test]
fn stores_know_nothing_of_registries() {
    depends_on_none_of(
        "storage",
        // S3 is spoken over HTTP, whose words are in the crate `http`.
        &["jreg", "jreg-oci", "jreg-registry", "axum", "hyper", "clap", "toml"],
    );
}

#[test]
fn the_domain_knows_nothing_of_http_or_settings() {
    depends_on_none_of(
        "registry",
        &["jreg", "axum", "hyper", "hyper-util", "http", "http-body", "tower", "clap", "toml"],
    );
}

#[test]
fn the_benchmark_knows_nothing_of_the_server() {
    depends_on_none_of(
        "bench",
        // It must measure any registry alike, and the server must not carry it.
        &["jreg", "jreg-oci", "jreg-registry", "jreg-storage", "axum", "hyper", "hyper-util"],
    );
    let manifests = manifests();
    let users = manifests.iter().filter(|path| {
        !path.ends_with("bench/Cargo.toml")
            && fs::read_to_string(path).unwrap().contains("jreg-bench")
    });
    assert_eq!(users.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

/// The manifests of the root package and of every crate.
fn manifests() -> Vec<PathBuf> {
    let crates = fs::read_dir(root().join("crates")).unwrap();
    let crates = crates.map(|entry| entry.unwrap().path().join("Cargo.toml"));
    let manifests: Vec<_> = crates.chain([root().join("Cargo.toml")]).collect();
    assert!(manifests.len() > 7, "the crates are not where they were");
    manifests
}

/// Which crates of the workspace a crate may use. What is not among them it does not know.
const LAYERS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("oci", &[]),
    ("profile", &[]),
    ("reload", &[]),
    ("storage", &["profile", "reload"]),
    ("archive", &["oci"]),
    ("auth", &["oci"]),
    ("client", &["auth", "oci", "reload"]),
    ("lifecycle", &["oci", "units"]),
    ("ui", &["oci"]),
    ("registry", &["lifecycle", "oci", "profile", "storage"]),
    ("telemetry", &["profile", "registry"]),
    ("events", &["auth", "oci", "registry", "reload", "storage"]),
    ("mirror", &["client", "oci", "profile", "registry", "storage", "telemetry"]),
    (
        "config",
        &["auth", "client", "events", "mirror", "oci", "registry", "storage", "telemetry", "units"],
    ),
    ("net", &["auth", "oci", "profile", "registry", "reload", "storage", "telemetry"]),
    ("access", &["auth", "mirror", "oci", "profile", "registry", "reload", "storage", "telemetry"]),
    (
        "http",
        &[
            "access",
            "auth",
            "mirror",
            "net",
            "oci",
            "profile",
            "registry",
            "storage",
            "telemetry",
            "ui",
        ],
    ),
];

#[test]
fn crates_know_only_those_below_them() {
    for (krate, allowed) in LAYERS {
        let ours = dependencies(krate).into_iter();
        let ours = ours.filter_map(|name| name.strip_prefix("jreg-").map(str::to_owned));
        let others: Vec<_> = ours.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(others.is_empty(), "crates/{krate} depends on {others:?}");
        depends_on_none_of(krate, &["jreg", "axum", "clap"]);
    }
}

/// Which modules of the root crate a module may use, so that they have no circles.
const MODULES: &[(&str, &[&str])] = &[
    ("bucket", &[]),
    ("folder", &[]),
    ("notify", &[]),
    ("support", &[]),
    ("error", &["bucket", "folder"]),
    ("options", &[]),
    ("store", &["bucket", "error", "folder", "options"]),
    ("lifecycle", &[]),
    ("mirrors", &["error", "options"]),
    ("jobs", &["lifecycle"]),
    (
        "maintenance",
        &[
            "bucket",
            "error",
            "folder",
            "jobs",
            "lifecycle",
            "mirrors",
            "options",
            "store",
            "support",
        ],
    ),
    ("activity", &[]),
    ("operator", &[]),
    (
        "transfer",
        &["bucket", "error", "folder", "lifecycle", "maintenance", "operator", "options", "store"],
    ),
    (
        "app",
        &[
            "activity",
            "error",
            "jobs",
            "lifecycle",
            "maintenance",
            "mirrors",
            "notify",
            "operator",
            "options",
            "store",
            "support",
        ],
    ),
    ("cli", &["maintenance", "transfer"]),
    ("commands", &["app", "cli", "maintenance", "transfer"]),
];

/// The same of the modules of crates/http.
const HTTP_MODULES: &[(&str, &[&str])] = &[
    ("headers", &[]),
    ("outcome", &[]),
    ("proxies", &[]),
    ("pulls", &[]),
    ("reading", &[]),
    ("readiness", &[]),
    ("request_id", &[]),
    ("routes", &[]),
    ("observed", &["proxies", "request_id", "routes"]),
    ("error", &["headers", "observed", "outcome"]),
    ("conditional", &["error"]),
    ("framing", &["error"]),
    ("memory", &["error", "headers"]),
    ("page", &["headers"]),
    ("redirect", &["error", "headers"]),
    ("byteranges", &["headers"]),
    ("record", &["error", "headers", "observed", "outcome"]),
    ("options", &["proxies", "pulls", "redirect"]),
    ("body", &["observed", "options"]),
    ("call", &["body"]),
    ("ui_state", &[]),
    ("context", &["options", "page", "readiness", "record", "ui_state"]),
    ("base", &["headers"]),
    ("extensions", &["headers"]),
    ("history", &["call", "error", "headers", "page"]),
    ("oci_history", &["call", "error", "headers", "page"]),
    ("deleted", &["call", "error", "headers", "page"]),
    ("usage", &["call", "error", "headers", "page"]),
    ("restores", &["body", "call", "conditional", "error", "headers", "outcome"]),
    ("blobs", &["byteranges", "call", "conditional", "error", "headers", "reading", "redirect"]),
    ("catalog", &["call", "error", "headers", "page"]),
    ("manifests", &["call", "conditional", "error", "headers", "outcome", "pulls"]),
    ("referrers", &["call", "error", "headers", "page"]),
    ("tags", &["call", "error", "headers", "page"]),
    ("token", &["error", "headers", "memory", "observed", "record"]),
    ("uploads", &["body", "call", "error", "headers", "options", "outcome"]),
    (
        "api",
        &[
            "base",
            "blobs",
            "body",
            "call",
            "catalog",
            "context",
            "deleted",
            "usage",
            "error",
            "extensions",
            "headers",
            "history",
            "manifests",
            "memory",
            "observed",
            "oci_history",
            "options",
            "outcome",
            "record",
            "referrers",
            "restores",
            "tags",
            "uploads",
        ],
    ),
    ("cookies", &["options", "proxies"]),
    (
        "ui",
        &[
            "api", "body", "context", "cookies", "error", "headers", "memory", "observed",
            "record", "ui_state",
        ],
    ),
    ("profiles", &["error", "headers"]),
    ("service", &["context", "error", "headers", "memory", "observed", "routes", "token", "ui"]),
    ("exchange", &["context", "error", "framing", "headers", "memory", "observed", "request_id"]),
    (
        "admin",
        &["context", "error", "exchange", "headers", "observed", "profiles", "routes", "service"],
    ),
];

/// Checks the modules of a folder against a table, in which each uses only those above it: so there
/// are no circles.
#[track_caller]
fn modules_know_only(folder: &str, table: &[(&str, &[&str])], others: &[&str]) {
    for (index, (module, allowed)) in table.iter().enumerate() {
        let is_above = |used: &&str| table[..index].iter().any(|(name, _)| name == used);
        let circles: Vec<_> = allowed.iter().filter(|used| !is_above(used)).collect();
        assert!(circles.is_empty(), "{folder}: {module} is not below {circles:?}");
    }
    let folder = root().join(folder);
    let exports = exports(&folder);
    for source in sources().into_iter().filter(|source| source.path.starts_with(&folder)) {
        let path = source.path.strip_prefix(&folder).unwrap().with_extension("");
        let module = path.iter().next().unwrap().to_str().unwrap();
        let Some((_, allowed)) = table.iter().find(|(name, _)| *name == module) else {
            assert!(others.contains(&module), "{} is in no table", source.path.display());
            continue;
        };
        let code: Vec<_> = source.production_lines().map(|(_, line)| line).collect();
        let code = code.join("\n");
        let is_nested = path.components().count() > 1;
        assert!(is_nested || !code.contains("super::"), "{}: super", source.path.display());
        for used in used_names(&code) {
            let used = exports.get(&used).unwrap_or(&used);
            let known = used == module || allowed.contains(&used.as_str());
            assert!(known, "{}: {module} uses {used}", source.path.display());
        }
    }
}

/// The names that the root of a crate takes from its modules, each with its module.
fn exports(folder: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(folder.join("lib.rs")).unwrap();
    let mut exports = HashMap::new();
    for statement in text.split("use ").skip(1) {
        let path = statement.split(';').next().unwrap().trim_start_matches("crate::");
        let Some((module, names)) = path.split_once("::") else { continue };
        if !text.contains(&format!("mod {module};")) {
            continue;
        }
        for name in names.split(|c: char| !c.is_alphanumeric() && c != '_') {
            exports.insert(name.to_owned(), module.to_owned());
        }
    }
    exports
}

/// The first name of each path that begins at the root of the crate.
fn used_names(code: &str) -> Vec<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for path in code.split("crate::").skip(1) {
        let group = path.strip_prefix('{');
        let (mut depth, mut name, mut is_first) =
            (usize::from(group.is_some()), String::new(), true);
        for c in group.unwrap_or(path).chars() {
            match c {
                _ if is_name(c) && is_first => name.push(c),
                _ if c.is_whitespace() && name.is_empty() => {}
                ',' if depth == 1 => {
                    names.push(std::mem::take(&mut name));
                    is_first = true;
                }
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => is_first = false,
            }
            if depth == 0 && !(is_name(c) && is_first) {
                break;
            }
        }
        names.push(name);
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn used_names_are_found_in_groups() {
    let code = "use crate::{\n    Error, a::{B, C},\n    d as e,\n};\ncrate::f::g(h, i); crate::J";
    assert_eq!(used_names(code), ["Error", "a", "d", "f", "J"]);
}

#[test]
fn modules_of_the_root_know_only_those_below_them() {
    modules_know_only("src", MODULES, &["lib", "main", "tests"]);
}

#[test]
fn modules_of_the_registry_know_only_those_below_them() {
    modules_know_only("crates/registry/src", REGISTRY_MODULES, &["lib"]);
}

#[test]
fn modules_of_http_know_only_those_below_them() {
    modules_know_only("crates/http/src", HTTP_MODULES, &["lib", "tests"]);
}

/// Only the wiring and the command line know the settings: components have options.
#[test]
fn components_know_no_settings() {
    for krate in ["client", "telemetry", "reload", "events", "net", "access", "http"] {
        depends_on_none_of(krate, &["jreg-config", "toml"]);
    }
}

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Whether the file is a test, or there for tests only.
    fn is_test(&self) -> bool {
        let path = self.path.strip_prefix(root()).unwrap();
        let mut components = path.components().map(|part| part.as_os_str().to_str().unwrap());
        components.any(|part| {
            ["tests", "tests.rs", "testkit", "testing", "contract", "benches", "fuzz"]
                .contains(&part)
        })
    }

    /// The lines that run in production, numbered: no comments, nothing from the module of the tests on.
    /// A single item that is there for tests only counts as production.
    fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let text = if self.is_test() { "" } else { self.text.as_str() };
        let following = text.lines().skip(1).chain([""]);
        let before_tests = |(_, (line, next)): &(usize, (&str, &str))| {
            line.trim() != "#[cfg(test)]" || !next.trim_start().starts_with("mod ")
        };
        let is_code = |(_, line): &(usize, &str)| !line.trim_start().starts_with("//");
        let lines = (1..).zip(text.lines().zip(following)).take_while(before_tests);
        lines.map(|(number, (line, _))| (number, line)).filter(is_code)
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in ["src", "crates", "tests", "fuzz"] {
        collect(&root().join(folder), &mut sources);
    }
    assert!(sources.len() > 20, "the sources are not where they were");
    sources
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source { text: fs::read_to_string(&path).unwrap(), path });
        }
    }
}

/// Where a word stands that may not be there, in all sources or in production code.
fn places(word: &str, in_tests_too: bool) -> Vec<String> {
    let mut places = Vec::new();
    for source in sources() {
        let all = (1..)
            .zip(source.text.lines())
            .filter(|_| in_tests_too && !source.path.ends_with(file!()));
        let production = source.production_lines().filter(|_| !in_tests_too);
        for (number, _) in all.chain(production).filter(|(_, line)| line.contains(word)) {
            places.push(format!("{}:{number}", source.path.display()));
        }
    }
    places
}

#[test]
fn nothing_is_left_to_do() {
    for word in
        ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "allow(dead_code)", "FIXME", "XXX"]
    {
        assert_eq!(places(word, true), Vec::<String>::new(), "{word}");
    }
}

#[test]
fn production_code_does_not_unwrap() {
    for word in [".unwrap()", "panic!(", "unsafe "] {
        assert_eq!(places(word, false), Vec::<String>::new(), "{word}");
    }
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> =
        sources().into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn no_file_is_long() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|s| s.text.lines().count() > LINES_MAX)
        .map(|s| s.path)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
