//! The documented examples of other registries, translated: what stays and goes here, and where that
//! differs.

use jreg_lifecycle::{ImmutableRules, RetentionRun, TagStatus};

use crate::fixture::{DAY, HOUR, Repository, parse, run};

fn keeps(keeps: &[&str]) -> String {
    let keeps: String = keeps.iter().map(|keep| format!("[[retention.keep]]\n{keep}\n")).collect();
    format!("[[retention]]\nrepositories = ['**']\n{keeps}")
}

#[track_caller]
fn check(repository: &Repository, rules: &str, stay: &[&str], go: &[&str]) {
    let (stays, goes) = repository.split(rules);
    assert_eq!((stays, goes), (stay.map_to(), go.map_to()));
}

trait Names {
    fn map_to(&self) -> Vec<String>;
}

impl Names for [&str] {
    fn map_to(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

// ECR: https://docs.aws.amazon.com/AmazonECR/latest/userguide/lifecycle_policy_examples.html

/// A rule says what expires; here keeps say what stays, so that the rest needs a keep of its own.
#[test]
fn ecr_age_of_images_with_a_prefix() {
    let repository = Repository::new("app")
        .tag("prod-1", "a", 20 * DAY)
        .tag("prod-2", "b", 13 * DAY)
        .tag("dev", "c", 99 * DAY);
    let rules = keeps(&["except = ['prod*']", "tags = ['prod*']\npushed_within = '14d'"]);
    check(&repository, &rules, &["prod-2", "dev"], &["prod-1"]);
}

fn ecr_multiple_rules() -> Repository {
    Repository::new("app")
        .tag("beta-1", "A", 10 * DAY)
        .tag("prod-1", "A", 10 * DAY)
        .tag("beta-2", "B", 9 * DAY)
        .tag("prod-2", "B", 9 * DAY)
        .tag("beta-3", "C", 8 * DAY)
}

/// There: image A expires; B stays with both tags because the first rule has seen it. Here tags go, and
/// B stays by prod-2 only.
#[test]
fn ecr_multiple_rules_example_a() {
    let (prod, beta) = ("tags = ['prod*']\nmost_recent = 1", "tags = ['beta*']\nmost_recent = 1");
    let stay = ["prod-2", "beta-3"];
    let go = ["beta-1", "prod-1", "beta-2"];
    check(&ecr_multiple_rules(), &keeps(&[prod, beta]), &stay, &go);
    // Example B has the rules in the other order, and there A and B expire. Here keeps have no order.
    check(&ecr_multiple_rules(), &keeps(&[beta, prod]), &stay, &go);
}

fn ecr_multiple_tags() -> Repository {
    Repository::new("app")
        .tag("alpha-1", "A", 12 * DAY)
        .tag("beta-1", "B", 11 * DAY)
        .tag("alpha-2", "C", 10 * DAY)
        .tag("beta-2", "C", 10 * DAY)
        .tag("alpha-3", "D", 4 * DAY)
        .tag("beta-3", "E", 3 * DAY)
        .tag("alpha-4", "F", 2 * DAY)
        .tag("beta-4", "F", 2 * DAY)
}

/// There a rule with two prefixes is about images that have both, and only C expires. Here each tag is
/// judged by itself, and any of the patterns is enough: what is older than five days goes.
#[test]
fn ecr_multiple_tags_example_a() {
    let rules = keeps(&["tags = ['alpha*', 'beta*']\npushed_within = '5d'"]);
    let stay = ["alpha-3", "beta-3", "alpha-4", "beta-4"];
    check(&ecr_multiple_tags(), &rules, &stay, &["alpha-1", "beta-1", "alpha-2", "beta-2"]);
}

/// There A and B expire, and C stays with all of its tags. Here the same images stay, if each kind of
/// tag has a keep.
#[test]
fn ecr_multiple_tags_example_b() {
    let repository = Repository::new("app")
        .tag("alpha-1", "A", 10 * DAY)
        .tag("beta-1", "A", 10 * DAY)
        .tag("gamma-1", "A", 10 * DAY)
        .tag("alpha-2", "B", 9 * DAY)
        .tag("beta-2", "B", 9 * DAY)
        .tag("alpha-3", "C", 8 * DAY)
        .tag("beta-3", "C", 8 * DAY)
        .tag("gamma-2", "C", 8 * DAY);
    let each = ["alpha*", "beta*", "gamma*"].map(|of| format!("tags = ['{of}']\nmost_recent = 1"));
    let each: Vec<_> = each.iter().map(String::as_str).collect();
    let go = ["alpha-1", "beta-1", "gamma-1", "alpha-2", "beta-2"];
    check(&repository, &keeps(&each), &["alpha-3", "beta-3", "gamma-2"], &go);
}

/// An image that a manifest list refers to does not expire before the list, there as here.
/// https://docs.aws.amazon.com/AmazonECR/latest/userguide/LifecyclePolicies.html
#[test]
fn ecr_images_of_a_manifest_list_stay() {
    let repository = Repository::new("app")
        .tag("v1", "list", 9 * DAY)
        .tag("amd64", "image", 9 * DAY)
        .manifest("list", &["image"], None);
    check(&repository, &keeps(&["tags = ['v*']"]), &["v1", "amd64"], &[]);
    check(&repository, &keeps(&["tags = ['x']"]), &[], &["v1", "amd64"]);
}

/// There lifecycle policies expire images with immutable tags; here only where the rule says so.
#[test]
fn ecr_immutable_images_expire() {
    let repository = Repository::new("app").tag("v1", "a", 9 * DAY);
    let immutable = "[[immutable]]\nrepositories = ['**']\ntags = ['*']\n";
    let rules = keeps(&["pushed_within = '7d'"]) + immutable;
    check(&repository, &rules, &["v1"], &[]);
    check(&repository, &(rules + "expires = true"), &[], &["v1"]);
}

// zot: https://zotregistry.dev/v2.1.11/articles/retention/

fn zot() -> String {
    "[[retention]]\nrepositories = ['infra/*', 'prod/*']\n\
     [[retention.keep]]\ntags = ['v2*', '*-prod']\n\
     [[retention.keep]]\ntags = ['v3*', '*-prod']\npulled_within = '168h'\n\
     [[retention]]\nrepositories = ['tmp/**']\nuntagged = '0s'\n\
     [[retention.keep]]\ntags = ['v1*']\npulled_within = '168h'\n\
     [[retention.keep]]\ntags = ['v1*']\npushed_within = '168h'\n\
     [[retention]]\nrepositories = ['**']\nuntagged = '0s'\n\
     [[retention.keep]]\nmost_recent = 10\n\
     [[retention.keep]]\npulled_within = '720h'\n\
     [[retention.keep]]\npushed_within = '720h'\n"
        .to_owned()
}

#[test]
fn zot_patterns_with_and_without_a_time() {
    let repository = Repository::new("infra/app")
        .tag("v2.1", "a", 90 * DAY)
        .tag("1-prod", "b", 90 * DAY)
        .tag("v3.1", "c", 90 * DAY)
        .pulled(3 * DAY)
        .tag("v3.0", "d", 90 * DAY)
        .pulled(8 * DAY)
        .tag("dev", "e", HOUR);
    check(&repository, &zot(), &["v2.1", "1-prod", "v3.1"], &["v3.0", "dev"]);
    // A single star is for one component of the name.
    let below = Repository::new("infra/a/b").tag("dev", "e", HOUR);
    check(&below, &zot(), &["dev"], &[]);
}

/// There the conditions of one entry of `keepTags` beside its patterns are alternatives; here they
/// hold together, and alternatives are several keeps.
#[test]
fn zot_conditions_of_one_entry_are_alternatives() {
    let repository = Repository::new("tmp/a/b")
        .tag("v1.1", "a", 90 * DAY)
        .pulled(3 * DAY)
        .tag("v1.2", "b", 3 * DAY)
        .tag("v1.0", "c", 90 * DAY)
        .tag("v2.0", "d", HOUR);
    check(&repository, &zot(), &["v1.1", "v1.2"], &["v1.0", "v2.0"]);
    let together = keeps(&["tags = ['v1*']\npulled_within = '168h'\npushed_within = '168h'"]);
    check(&repository, &together, &["v1.2"], &["v1.1", "v1.0", "v2.0"]);
}

/// `mostRecentlyPulledCount` has no counterpart here.
#[test]
fn zot_default_policy() {
    let mut repository = Repository::new("other");
    for number in 10..22 {
        repository = repository.tag(&format!("t{number}"), "x", number * 10 * DAY);
    }
    let repository = repository.tag("pulled", "y", 900 * DAY).pulled(29 * DAY);
    let (stay, go) = repository.split(&zot());
    assert_eq!((stay.len(), go), (11, vec!["t20".to_owned(), "t21".to_owned()]));
}

/// There a policy without `keepTags` keeps all tags; here an entry without a keep is refused.
#[test]
fn zot_policy_without_keep_tags() {
    let error = parse("[[retention]]\nrepositories = ['**']").unwrap_err();
    assert!(error.to_string().contains("it has no [[retention.keep]]"), "{error}");
}

// Harbor, retention:
// https://goharbor.io/docs/latest/working-with-projects/working-with-images/create-tag-retention-rules/

/// Repository A with 100 tags, all pulled in the last week, or one like B to E with 6, none pulled in
/// the last month.
fn harbor(tags: u32, pulled: u32) -> Repository {
    let mut repository = Repository::new("project/repository");
    for number in 0..tags {
        let image = format!("image {number}");
        repository = repository
            .tag(&format!("t{number:03}"), &image, (100 + number) * DAY)
            .pulled(pulled * DAY);
    }
    repository
}

/// Counts are per repository, there as here. There the example counts by pull; here by push only.
#[test]
fn harbor_example_1_most_recent_of_each_repository() {
    let rules = keeps(&["most_recent = 10"]);
    // 90 of 100 tags would go: none does unless forced, which Harbor has not.
    let judgement = harbor(100, 5).judge(&rules);
    assert_eq!((judgement.removals().count(), judgement.withheld.unwrap().removals), (0, 90));
    let forced = harbor(100, 5).judge_at(&rules, &RetentionRun { force: true, ..run() });
    assert_eq!(forced.removals().count(), 90);
    assert_eq!(harbor(6, 60).judge(&rules).removals().count(), 0);
}

#[test]
fn harbor_example_2_pulled_within_a_week() {
    let rules = keeps(&["pulled_within = '7d'"]);
    assert_eq!(harbor(100, 5).judge(&rules).removals().count(), 0);
    assert_eq!(harbor(6, 60).judge(&rules).removals().count(), 6);
}

#[test]
fn harbor_example_4_rules_are_alternatives() {
    let rules = keeps(&["pulled_within = '7d'", "most_recent = 10"]);
    assert_eq!(harbor(100, 5).judge(&rules).removals().count(), 0);
    assert_eq!(harbor(6, 60).judge(&rules).removals().count(), 0);
}

#[test]
fn harbor_example_5_each_rule_counts_what_it_matches() {
    let mut repository = Repository::new("app");
    for kind in ["prod", "rc", "release"] {
        for version in ["2.1", "2.2", "3.1", "4.4"] {
            repository = repository.tag(&format!("{version}-your_repo-{kind}"), kind, DAY);
        }
    }
    let rules = keeps(&["tags = ['2*']\nmost_recent = 10", "tags = ['*-prod']\nmost_recent = 10"]);
    let (stay, go) = repository.split(&rules);
    assert_eq!(stay.len(), 8);
    let gone = ["3.1-your_repo-rc", "4.4-your_repo-rc", "3.1-your_repo-release"];
    assert_eq!(go[..3], gone.map(str::to_owned));
}

/// There an artifact with one retained tag keeps all of its tags; here each tag is judged by itself.
/// The manifest stays in both.
#[test]
fn harbor_tags_of_one_artifact() {
    let repository = Repository::new("app")
        .tag("harbor-1.8", "a", 8 * HOUR)
        .tag("harbor-release", "a", 6 * HOUR)
        .tag("harbor-nightly", "a", 3 * HOUR)
        .tag("harbor-latest", "a", HOUR);
    let rules = keeps(&["tags = ['harbor-*']\nmost_recent = 2"]);
    let (stay, go) = (["harbor-nightly", "harbor-latest"], ["harbor-1.8", "harbor-release"]);
    check(&repository, &rules, &stay, &go);
}

// Harbor, immutability:
// https://goharbor.io/docs/latest/working-with-projects/working-with-images/create-tag-immutability-rules/

fn is_immutable(rules: &ImmutableRules, tag: &str) -> bool {
    rules.judge(&"project/hello-world".parse().unwrap(), &tag.parse().unwrap()).is_some()
}

/// Of two tags of one artifact the immutable one stays, and the other may go; retention does not
/// remove an immutable tag, there as here.
#[test]
fn harbor_immutable_tag_beside_another() {
    let text = "[[immutable]]\nrepositories = ['project/hello-world']\ntags = ['v1']\n";
    let rules = parse(text).unwrap();
    assert!(is_immutable(rules.immutable(), "v1"));
    assert!(!is_immutable(rules.immutable(), "v2"));
    let repository = Repository::new("project/hello-world").tag("v1", "hello", 9 * DAY).tag(
        "v2",
        "hello",
        9 * DAY,
    );
    check(&repository, &(keeps(&["tags = ['x']"]) + text), &["v1"], &["v2"]);
}

#[test]
fn harbor_immutable_by_any_rule_and_with_exclusions() {
    let text = "[[immutable]]\nrepositories = ['**']\ntags = ['*']\n\
                except = ['rc', 'test', 'nightly']\n";
    let rules = parse(text).unwrap();
    for (tag, immutable) in [("rc", false), ("test", false), ("nightly", false), ("rc1", true)] {
        assert_eq!(is_immutable(rules.immutable(), tag), immutable, "{tag}");
    }
    // Another rule is an alternative, also to the exclusions of the first.
    let more = format!("{text}[[immutable]]\nrepositories = ['project/*']\ntags = ['rc']");
    assert!(is_immutable(parse(&more).unwrap().immutable(), "rc"));
}

// Quay:
// https://docs.redhat.com/en/documentation/red_hat_quay/3.16/html/manage_red_hat_quay/red-hat-quay-namespace-auto-pruning-overview

/// Four tags, and a policy of the namespace that leaves two: the oldest go.
#[test]
fn quay_number_of_tags() {
    let repository = Repository::new("quayadmin/busybox")
        .tag("test", "a", 4 * HOUR)
        .tag("test2", "a", 3 * HOUR)
        .tag("test3", "a", 2 * HOUR)
        .tag("test4", "a", HOUR);
    check(&repository, &keeps(&["most_recent = 2"]), &["test3", "test4"], &["test", "test2"]);
}

fn quay_tags() -> Repository {
    Repository::new("quayadmin/busybox")
        .tag("v1", "a", 8 * DAY)
        .tag("v2", "b", 6 * DAY)
        .tag("test1", "c", 8 * DAY)
        .tag("test2", "d", 6 * DAY)
}

/// A policy with a pattern prunes what matches it; here the rest needs a keep of its own.
#[test]
fn quay_creation_date_of_matching_tags() {
    let rules = keeps(&["except = ['v*']", "pushed_within = '7d'"]);
    check(&quay_tags(), &rules, &["v2", "test1", "test2"], &["v1"]);
}

/// `tagPatternMatches = false`: what does not match is pruned.
#[test]
fn quay_creation_date_of_other_tags() {
    let rules = keeps(&["tags = ['test?*']", "pushed_within = '7d'"]);
    check(&quay_tags(), &rules, &["v2", "test1", "test2"], &["v1"]);
}

/// There each of several policies prunes by itself, so that a tag must satisfy all of them; here that
/// is one keep.
#[test]
fn quay_several_policies() {
    let rules = keeps(&["most_recent = 3\npushed_within = '7d'"]);
    let judgement = quay_tags().judge(&rules);
    let stays: Vec<_> = judgement
        .verdicts
        .iter()
        .filter(|verdict| verdict.decision.status() == TagStatus::Keep)
        .map(|verdict| verdict.tag.as_str())
        .collect();
    assert_eq!(stays, ["v2", "test2"]);
}
