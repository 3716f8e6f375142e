//! What scan reports and VEX documents say: SARIF, Trivy, Grype, the reports of Harbor's scanners, OpenVEX, CSAF and
//! CycloneDX, in themselves or as the predicate of an in-toto statement. Parsed with the limits of
//! [`document`](crate::document).

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::document::{Capped, Pairs, lenient};

/// Maximum findings of a document.
const FINDINGS_MAX: usize = 20_000;
/// Maximum products of a statement, and parts of a finding.
const PARTS_MAX: usize = 50;
/// How deep a document may be within statements and their predicates.
const DEPTH_MAX: usize = 3;

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Critical,
    High,
    Medium,
    Low,
    Negligible,
    #[default]
    Unknown,
}

impl Severity {
    pub const ALL: [Self; 6] =
        [Self::Critical, Self::High, Self::Medium, Self::Low, Self::Negligible, Self::Unknown];

    fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "critical" => Self::Critical,
            "high" | "important" | "error" => Self::High,
            "medium" | "moderate" | "warning" => Self::Medium,
            "low" | "note" => Self::Low,
            "negligible" | "none" | "info" | "informational" => Self::Negligible,
            _ => Self::Unknown,
        }
    }

    /// Of a score from 0 to 10, as CVSS counts.
    fn scored(score: &str) -> Self {
        match score.trim().parse::<f64>() {
            Ok(score) if score >= 9.0 => Self::Critical,
            Ok(score) if score >= 7.0 => Self::High,
            Ok(score) if score >= 4.0 => Self::Medium,
            Ok(score) if score > 0.0 => Self::Low,
            Ok(_) => Self::Negligible,
            Err(_) => Self::Unknown,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::Negligible => "negligible",
            Self::Unknown => "unknown",
        }
    }
}

/// A finding of a scan report, or a statement of a VEX document about one product or more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// `CVE-2026-1234`, or the rule of a scanner.
    pub id: String,
    pub url: String,
    pub severity: Severity,
    /// Of a VEX document: `not_affected`.
    pub status: String,
    /// The package, product or file.
    pub subject: String,
    pub version: String,
    /// The version that has no such finding.
    pub fixed: String,
    pub detail: String,
}

/// What a scan report or a VEX document says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// `SARIF 2.1.0`, `OpenVEX`.
    pub format: String,
    /// What or who made it.
    pub author: String,
    /// Whether it says what affects a product, and not what a scanner found.
    pub is_vex: bool,
    pub items: Vec<Finding>,
    /// How many are not read.
    pub more: usize,
}

/// The parts of a document that say what it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FindingsDocument<'a> {
    #[serde(borrow, rename = "@context")]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    author: Option<&'a RawValue>,
    #[serde(borrow)]
    statements: Option<&'a RawValue>,
    #[serde(borrow)]
    document: Option<&'a RawValue>,
    #[serde(borrow)]
    vulnerabilities: Option<&'a RawValue>,
    #[serde(borrow, rename = "bomFormat")]
    bom_format: Option<&'a RawValue>,
    #[serde(borrow, rename = "specVersion")]
    spec_version: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    runs: Option<&'a RawValue>,
    #[serde(borrow, rename = "Results")]
    results: Option<&'a RawValue>,
    #[serde(borrow)]
    matches: Option<&'a RawValue>,
    #[serde(borrow)]
    scanner: Option<&'a RawValue>,
    #[serde(borrow)]
    predicate: Option<&'a RawValue>,
}

/// The scanner of an attested report, which contains its result, and that of a report of Harbor, which has a name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScannerDocument<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

/// A text, or an object that has one: the name of a vulnerability or product.
#[derive(Clone, Debug, Default)]
struct NameOrObject(String);

impl<'de> Deserialize<'de> for NameOrObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Named {
            #[serde(deserialize_with = "lenient")]
            name: String,
            #[serde(rename = "@id", deserialize_with = "lenient")]
            at_id: String,
            #[serde(deserialize_with = "lenient")]
            r#ref: String,
        }
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if let Ok(text) = serde_json::from_str::<String>(raw) {
            return Ok(Self(text));
        }
        let Named { name, at_id, r#ref } = serde_json::from_str(raw).unwrap_or_default();
        Ok(Self([name, at_id, r#ref].into_iter().find(|name| !name.is_empty()).unwrap_or_default()))
    }
}

impl fmt::Display for NameOrObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! parts {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)+ })+) => {$(
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        struct $name {
            $($(#[$meta])* #[serde(deserialize_with = "lenient")] $field: $type,)+
        }
    )+};
}

parts! {
    VexStatement {
        vulnerability: NameOrObject,
        products: Capped<NameOrObject, PARTS_MAX>,
        status: String,
        justification: String,
        impact_statement: String,
        action_statement: String,
    }
    SarifRun { tool: SarifTool, results: Capped<SarifResult, FINDINGS_MAX>, }
    SarifTool { driver: SarifDriver, }
    SarifDriver { name: String, version: String, rules: Capped<SarifRule, FINDINGS_MAX>, }
    SarifRule {
        id: String,
        #[serde(rename = "helpUri")]
        help_uri: String,
        #[serde(rename = "shortDescription")]
        description: SarifText,
        properties: Pairs,
    }
    SarifText { text: String, }
    SarifResult {
        #[serde(rename = "ruleId")]
        rule_id: String,
        #[serde(rename = "ruleIndex")]
        rule_index: Option<usize>,
        level: String,
        message: SarifText,
        locations: Capped<SarifLocation, 1>,
    }
    SarifLocation {
        #[serde(rename = "physicalLocation")]
        physical: SarifPhysicalLocation,
    }
    SarifPhysicalLocation {
        #[serde(rename = "artifactLocation")]
        artifact: SarifArtifactLocation,
    }
    SarifArtifactLocation { uri: String, }
    TrivyResult {
        #[serde(rename = "Vulnerabilities")]
        vulnerabilities: Capped<TrivyVulnerability, FINDINGS_MAX>,
    }
    TrivyVulnerability {
        #[serde(rename = "VulnerabilityID")]
        id: String,
        #[serde(rename = "PkgName")]
        package: String,
        #[serde(rename = "InstalledVersion")]
        installed: String,
        #[serde(rename = "FixedVersion")]
        fixed: String,
        #[serde(rename = "Severity")]
        severity: String,
        #[serde(rename = "Title")]
        title: String,
        #[serde(rename = "PrimaryURL")]
        url: String,
    }
    GrypeMatch { vulnerability: GrypeVulnerability, artifact: GrypeArtifact, }
    GrypeVulnerability {
        id: String,
        severity: String,
        #[serde(rename = "dataSource")]
        url: String,
        description: String,
        fix: GrypeFix,
    }
    GrypeFix { versions: Capped<String, PARTS_MAX>, }
    GrypeArtifact { name: String, version: String, }
    Vulnerability {
        id: String,
        cve: String,
        title: String,
        description: String,
        severity: String,
        package: String,
        version: String,
        fix_version: String,
        links: Capped<String, 1>,
        ratings: Capped<Rating, PARTS_MAX>,
        analysis: Analysis,
        affects: Capped<NameOrObject, PARTS_MAX>,
        product_status: ProductStatus,
        flags: Capped<Flag, PARTS_MAX>,
        scores: Capped<Score, PARTS_MAX>,
    }
    Rating { severity: String, }
    Analysis { state: String, justification: String, detail: String, }
    Flag { label: String, }
    Score { cvss_v3: CvssScore, }
    CvssScore {
        #[serde(rename = "baseSeverity")]
        severity: String,
    }
    ProductStatus {
        known_affected: Capped<String, PARTS_MAX>,
        known_not_affected: Capped<String, PARTS_MAX>,
        fixed: Capped<String, PARTS_MAX>,
        under_investigation: Capped<String, PARTS_MAX>,
    }
    CsafDocument { title: String, }
}

/// A part of a document; one of a wrong type is as if it were empty.
fn part<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// The findings of a document, the worst first. `None`: it is of no known format.
pub fn parse_findings(bytes: &[u8]) -> Option<Findings> {
    let mut found = parse_within(std::str::from_utf8(bytes).ok()?, 0)?;
    let left = found.items.len().saturating_sub(FINDINGS_MAX);
    found.items.truncate(FINDINGS_MAX);
    found.more += left;
    found.items.sort_by(|one, other| (one.severity, &one.id).cmp(&(other.severity, &other.id)));
    Some(found)
}

fn parse_within(json: &str, depth: usize) -> Option<Findings> {
    if depth > DEPTH_MAX || !json.trim_start().starts_with('{') {
        return None;
    }
    let document: FindingsDocument<'_> = serde_json::from_str(json).ok()?;
    let scanner: ScannerDocument<'_> = part(document.scanner);
    let inner = document.predicate.or(scanner.result);
    match &document {
        FindingsDocument { runs: Some(_), .. } => Some(sarif(&document)),
        FindingsDocument { results: Some(_), .. } => Some(trivy(document.results)),
        FindingsDocument { matches: Some(_), .. } => Some(grype(document.matches)),
        FindingsDocument { context: Some(context), statements: Some(_), .. }
            if context.get().contains("openvex") =>
        {
            Some(openvex(&document))
        }
        FindingsDocument { vulnerabilities: Some(_), .. } => vulnerabilities(&document, &scanner),
        _ => parse_within(inner?.get(), depth + 1),
    }
}

fn sarif(document: &FindingsDocument<'_>) -> Findings {
    let version: String = part(document.version);
    let mut found = Findings { format: format!("SARIF {version}"), ..Findings::default() };
    let runs: Capped<SarifRun, PARTS_MAX> = part(document.runs);
    for SarifRun { tool, results } in runs.items {
        let SarifDriver { name, version, rules } = tool.driver;
        if found.author.is_empty() {
            found.author = format!("{name} {version}").trim().to_owned();
        }
        found.more += results.more;
        let by_id: HashMap<&str, &SarifRule> =
            rules.items.iter().map(|rule| (rule.id.as_str(), rule)).collect();
        found.items.extend(results.items.into_iter().map(|result| {
            let indexed = || rules.items.get(result.rule_index?);
            let rule = by_id.get(result.rule_id.as_str()).copied().or_else(indexed);
            sarif_finding(result, rule)
        }));
    }
    found
}

fn sarif_finding(result: SarifResult, rule: Option<&SarifRule>) -> Finding {
    let score = rule.and_then(|rule| rule.properties.get("security-severity"));
    let severity = score.map(Severity::scored).unwrap_or_else(|| Severity::named(&result.level));
    // Trivy writes the facts as lines of the message.
    let fact = |name: &str| {
        let line = result.message.text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    let location = result.locations.items.into_iter().next();
    let location = location.map(|location| location.physical.artifact.uri).unwrap_or_default();
    let subject = fact("Package:");
    let description = rule.map(|rule| rule.description.text.clone()).unwrap_or_default();
    let is_taken = subject.is_some() && !description.is_empty();
    Finding {
        version: fact("Installed Version:").unwrap_or_default(),
        fixed: fact("Fixed Version:").unwrap_or_default(),
        subject: subject.unwrap_or(location),
        detail: if is_taken { description } else { result.message.text.clone() },
        id: match result.rule_id.is_empty() {
            true => rule.map(|rule| rule.id.clone()).unwrap_or_default(),
            false => result.rule_id,
        },
        url: rule.map(|rule| rule.help_uri.clone()).unwrap_or_default(),
        severity,
        status: String::new(),
    }
}

fn trivy(results: Option<&RawValue>) -> Findings {
    let results: Capped<TrivyResult> = part(results);
    let mut found = Findings { format: "Trivy".to_owned(), ..Findings::default() };
    for result in results.items {
        found.more += result.vulnerabilities.more;
        found.items.extend(result.vulnerabilities.items.into_iter().map(|of| Finding {
            severity: Severity::named(&of.severity),
            id: of.id,
            url: of.url,
            subject: of.package,
            version: of.installed,
            fixed: of.fixed,
            detail: of.title,
            status: String::new(),
        }));
    }
    found
}

fn grype(matches: Option<&RawValue>) -> Findings {
    let matches: Capped<GrypeMatch, FINDINGS_MAX> = part(matches);
    let items = matches.items.into_iter().map(|of| Finding {
        severity: Severity::named(&of.vulnerability.severity),
        id: of.vulnerability.id,
        url: of.vulnerability.url,
        subject: of.artifact.name,
        version: of.artifact.version,
        fixed: of.vulnerability.fix.versions.items.join(", "),
        detail: of.vulnerability.description,
        status: String::new(),
    });
    let items = items.collect();
    Findings { format: "Grype".to_owned(), items, more: matches.more, ..Findings::default() }
}

fn openvex(document: &FindingsDocument<'_>) -> Findings {
    let statements: Capped<VexStatement, FINDINGS_MAX> = part(document.statements);
    let items = statements.items.into_iter().map(|of| Finding {
        id: of.vulnerability.0,
        status: of.status,
        subject: joined(&of.products.items, of.products.more),
        detail: sentence(&[&of.justification, &of.impact_statement, &of.action_statement]),
        ..Finding::default()
    });
    Findings {
        format: "OpenVEX".to_owned(),
        author: part(document.author),
        is_vex: true,
        items: items.collect(),
        more: statements.more,
    }
}

/// CSAF, CycloneDX, and the reports of Harbor's scanners, which all call their list the same.
fn vulnerabilities(
    document: &FindingsDocument<'_>,
    scanner: &ScannerDocument<'_>,
) -> Option<Findings> {
    let list: Capped<Vulnerability, FINDINGS_MAX> = part(document.vulnerabilities);
    let items = list.items.into_iter();
    let found = Findings { more: list.more, is_vex: true, ..Findings::default() };
    if document.bom_format.is_some() {
        let version: String = part(document.spec_version);
        let items: Vec<Finding> = items.map(cyclone_finding).collect();
        // An SBOM may have an empty list.
        let format = format!("CycloneDX {version}");
        return (!items.is_empty()).then_some(Findings { format, items, ..found });
    }
    if document.document.is_some() {
        let about: CsafDocument = part(document.document);
        let items = items.flat_map(csaf_findings).collect();
        return Some(Findings { format: "CSAF".to_owned(), author: about.title, items, ..found });
    }
    let items = items.map(|of| Finding {
        severity: Severity::named(&of.severity),
        id: of.id,
        url: of.links.items.into_iter().next().unwrap_or_default(),
        subject: of.package,
        version: of.version,
        fixed: of.fix_version,
        detail: of.description,
        status: String::new(),
    });
    let (format, author) = ("vulnerability report".to_owned(), part(scanner.name));
    Some(Findings { format, author, is_vex: false, items: items.collect(), ..found })
}

fn cyclone_finding(of: Vulnerability) -> Finding {
    let severities = of.ratings.items.iter().map(|rating| Severity::named(&rating.severity));
    Finding {
        severity: severities.min().unwrap_or_default(),
        detail: sentence(&[&of.analysis.justification, &of.analysis.detail, &of.description]),
        subject: joined(&of.affects.items, of.affects.more),
        id: of.id,
        status: of.analysis.state,
        ..Finding::default()
    }
}

/// A finding for each status of the products.
fn csaf_findings(of: Vulnerability) -> Vec<Finding> {
    let severities = of.scores.items.iter().map(|of| Severity::named(&of.cvss_v3.severity));
    let severity = severities.min().unwrap_or_default();
    let flags: Vec<&str> = of.flags.items.iter().map(|flag| flag.label.as_str()).collect();
    let (flags, status) = (flags.join(", "), of.product_status);
    let by_status = [
        ("affected", status.known_affected),
        ("not_affected", status.known_not_affected),
        ("fixed", status.fixed),
        ("under_investigation", status.under_investigation),
    ];
    let found = by_status.into_iter().filter(|(_, products)| !products.items.is_empty());
    let found = found.map(|(status, products)| Finding {
        id: if of.cve.is_empty() { of.id.clone() } else { of.cve.clone() },
        severity,
        status: status.to_owned(),
        subject: joined(&products.items, products.more),
        detail: match status {
            "not_affected" => sentence(&[&flags, &of.title]),
            _ => of.title.clone(),
        },
        ..Finding::default()
    });
    found.collect()
}

/// Names of a list that a row shows.
const NAMES_SHOWN_MAX: usize = 4;

fn joined<T: ToString>(names: &[T], more: usize) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN_MAX).map(ToString::to_string).collect();
    match names.len() - shown.len() + more {
        0 => shown.join(", "),
        left => format!("{} and {left} more", shown.join(", ")),
    }
}

fn sentence(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sarif_report_is_a_list_of_findings_the_worst_first() {
        let json = br#"{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "Trivy", "version": "0.58", "rules": [
            {"id": "CVE-1", "helpUri": "https://avd.example/CVE-1", "shortDescription": {"text": "a buffer overflow"},
             "properties": {"security-severity": "9.8"}},
            {"id": "CVE-2", "properties": {"security-severity": 5.0}}]}},
            "results": [
              {"ruleId": "CVE-2", "ruleIndex": 1, "level": "warning", "message": {"text": "found"},
               "locations": [{"physicalLocation": {"artifactLocation": {"uri": "usr/lib/x.so"}}}, {}]},
              {"ruleId": "CVE-1", "level": "error",
               "message": {"text": "Package: openssl\nInstalled Version: 3.0.1\nVulnerability CVE-1\nFixed Version: 3.0.2\n"}},
              {"ruleIndex": 0, "level": "error"}, "wrong", {"ruleIndex": 99999}]}, 7]}"#;
        let found = parse_findings(json).unwrap();
        assert_eq!((found.format.as_str(), found.author.as_str()), ("SARIF 2.1.0", "Trivy 0.58"));
        assert!(!found.is_vex);
        let first = &found.items[0];
        assert_eq!((first.id.as_str(), first.severity), ("CVE-1", Severity::Critical));
        assert_eq!((first.subject.as_str(), first.version.as_str()), ("openssl", "3.0.1"));
        assert_eq!((first.fixed.as_str(), first.detail.as_str()), ("3.0.2", "a buffer overflow"));
        let order: Vec<_> = found.items.iter().map(|one| (&*one.id, one.severity)).collect();
        let (critical, medium) = (Severity::Critical, Severity::Medium);
        assert_eq!(order[..3], [("CVE-1", critical), ("CVE-1", critical), ("CVE-2", medium)]);
        assert_eq!(found.items[2].subject, "usr/lib/x.so");
        let empty = parse_findings(br#"{"version": "2.1.0", "runs": []}"#).unwrap();
        assert!(empty.items.is_empty());
    }

    #[test]
    fn the_reports_of_scanners_are_read_also_within_a_statement() {
        let trivy = r#"{"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-1", "PkgName":
            "zlib", "InstalledVersion": "1.2", "FixedVersion": "1.3", "Severity": "HIGH", "Title": "t"}]}, {"Target": "x"}]}"#;
        let grype = r#"{"matches": [{"vulnerability": {"id": "CVE-1", "severity": "High", "description": "t", "fix":
            {"versions": ["1.3"]}}, "artifact": {"name": "zlib", "version": "1.2"}}]}"#;
        let harbor = r#"{"scanner": {"name": "Trivy"}, "vulnerabilities": [{"id": "CVE-1", "package": "zlib", "version":
            "1.2", "fix_version": "1.3", "severity": "High", "description": "t"}]}"#;
        let attested = format!(
            r#"{{"predicateType": "x", "predicate": {{"scanner": {{"uri": "x", "result": {trivy}}}}}}}"#
        );
        for json in [trivy, grype, harbor, &attested] {
            let found = parse_findings(json.as_bytes()).unwrap();
            let expected = Finding {
                id: "CVE-1".to_owned(),
                severity: Severity::High,
                subject: "zlib".to_owned(),
                version: "1.2".to_owned(),
                fixed: "1.3".to_owned(),
                detail: "t".to_owned(),
                ..Finding::default()
            };
            assert_eq!((found.is_vex, found.items), (false, vec![expected]), "{json}");
        }
    }

    #[test]
    fn vex_documents_say_which_products_are_affected() {
        let openvex = r#"{"@context": "https://openvex.dev/ns/v0.2.0", "author": "Web team", "statements": [
            {"vulnerability": {"name": "CVE-1"}, "products": [{"@id": "pkg:oci/app"}, "b"], "status": "not_affected",
             "justification": "component_not_present"}, {"vulnerability": "CVE-2", "status": "fixed"}]}"#;
        let found = parse_findings(openvex.as_bytes()).unwrap();
        assert_eq!((found.is_vex, found.author.as_str()), (true, "Web team"));
        let first = &found.items[0];
        assert_eq!((first.id.as_str(), first.subject.as_str()), ("CVE-1", "pkg:oci/app, b"));
        assert_eq!(first.status, "not_affected");
        assert_eq!(first.detail, "component_not_present");
        assert_eq!(found.items[1].id, "CVE-2");
        let csaf = r#"{"document": {"category": "csaf_vex", "title": "Advisory"}, "vulnerabilities": [{"cve": "CVE-1",
            "title": "t", "scores": [{"cvss_v3": {"baseSeverity": "LOW"}}], "flags": [{"label": "code_not_reachable"}],
            "product_status": {"known_not_affected": ["P1"], "fixed": ["P2", "P3", "P4", "P5", "P6"]}}]}"#;
        let found = parse_findings(csaf.as_bytes()).unwrap();
        assert_eq!((found.format.as_str(), found.author.as_str()), ("CSAF", "Advisory"));
        let rows: Vec<_> = found.items.iter().map(|of| (&*of.status, &*of.subject)).collect();
        assert_eq!(rows, [("not_affected", "P1"), ("fixed", "P2, P3, P4, P5 and 1 more")]);
        assert_eq!(found.items[0].detail, "code_not_reachable: t");
        let cyclone = r#"{"bomFormat": "CycloneDX", "specVersion": "1.5", "vulnerabilities": [{"id": "CVE-1", "ratings":
            [{"severity": "low"}, {"severity": "high"}], "analysis": {"state": "exploitable"}, "affects": [{"ref": "a"}]}]}"#;
        let found = parse_findings(cyclone.as_bytes()).unwrap();
        let first = &found.items[0];
        assert_eq!((first.severity, first.subject.as_str()), (Severity::High, "a"));
        let sbom = br#"{"bomFormat": "CycloneDX", "components": [], "vulnerabilities": []}"#;
        assert_eq!(parse_findings(sbom), None);
    }

    #[test]
    fn hostile_documents_are_bounded() {
        for json in ["{}", "[]", "7", "{\"runs\"", r#"{"statements": [], "@context": 7}"#] {
            assert_eq!(parse_findings(json.as_bytes()), None, "{json}");
        }
        for json in [r#"{"runs": 7}"#, r#"{"matches": {"a": 1}}"#, r#"{"Results": [[[]]]}"#] {
            assert!(parse_findings(json.as_bytes()).unwrap().items.is_empty(), "{json}");
        }
        let result = r#"{"ruleId": "x"}"#;
        let many = vec![result; FINDINGS_MAX + 7].join(",");
        let found = parse_findings(format!(r#"{{"runs": [{{"results": [{many}]}}]}}"#).as_bytes());
        let found = found.unwrap();
        assert_eq!((found.items.len(), found.more), (FINDINGS_MAX, 7));
        let runs = vec![format!(r#"{{"results": [{}]}}"#, vec![result; 3000].join(",")); 10];
        let found = parse_findings(format!(r#"{{"runs": [{}]}}"#, runs.join(",")).as_bytes());
        let found = found.unwrap();
        assert_eq!((found.items.len(), found.more), (FINDINGS_MAX, 10_000));
        let mut nested = r#"{"runs": []}"#.to_owned();
        for _ in 0..6 {
            nested = format!(r#"{{"predicate": {nested}}}"#);
        }
        assert_eq!(parse_findings(nested.as_bytes()), None);
        let deep = format!(r#"{{"runs": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        drop(parse_findings(deep.as_bytes()));
    }
}
