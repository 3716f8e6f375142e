//! Documents that clients pushed, parsed with limits: a field of a wrong type is absent, a list or map is read
//! up to a number of entries, and everything that no page shows is skipped without memory.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use jreg_oci::Digest;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Maximum size of a config, chart or other document that is shown.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
/// Maximum size of an SBOM whose packages are shown.
pub const SBOM_BYTES_MAX: u64 = 16 << 20;
/// Maximum entries of a map of labels, annotations or variables.
const PAIRS_MAX: usize = 300;
/// Maximum descriptors of a manifest.
const DESCRIPTORS_MAX: usize = 2048;
/// Maximum entries of other lists.
const ITEMS_MAX: usize = 1000;
/// Maximum packages of an SBOM.
const PACKAGES_MAX: usize = 20_000;

/// A list of at most `MAX` items, and how many more there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capped<T, const MAX: usize = ITEMS_MAX> {
    pub items: Vec<T>,
    pub more: usize,
}

impl<T, const MAX: usize> Default for Capped<T, MAX> {
    fn default() -> Self {
        Self { items: Vec::new(), more: 0 }
    }
}

impl<'de, T: DeserializeOwned, const MAX: usize> Deserialize<'de> for Capped<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: DeserializeOwned, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
            type Value = Capped<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut capped = Capped::default();
                while capped.items.len() < MAX {
                    let Some(raw) = list.next_element::<&RawValue>()? else { return Ok(capped) };
                    capped.items.extend(serde_json::from_str::<T>(raw.get()).ok());
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    capped.more += 1;
                }
                Ok(capped)
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// Names and values in the order of the document. Values that are no text are shown as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    pub items: Vec<(String, String)>,
    pub more: usize,
}

impl Pairs {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.items.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Pairs::default();
                while let Some(name) = map.next_key::<String>()? {
                    if pairs.items.len() == PAIRS_MAX {
                        map.next_value::<IgnoredAny>()?;
                        pairs.more += 1;
                        continue;
                    }
                    let raw = map.next_value::<&RawValue>()?.get();
                    let value = serde_json::from_str::<String>(raw);
                    pairs.items.push((name, value.unwrap_or_else(|_| raw.to_owned())));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// A field of a wrong type is as if it were absent.
pub(crate) fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

/// A digest, if it is one.
fn lenient_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
    let text: String = lenient(deserializer)?;
    Ok(text.parse().ok())
}

macro_rules! document {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "lenient")] pub $field: $type,)+
        }
    };
}

/// A descriptor.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescriptorDocument {
    #[serde(deserialize_with = "lenient")]
    pub media_type: String,
    #[serde(deserialize_with = "lenient_digest")]
    pub digest: Option<Digest>,
    #[serde(deserialize_with = "lenient")]
    pub size: u64,
    #[serde(deserialize_with = "lenient")]
    pub artifact_type: String,
    #[serde(deserialize_with = "lenient")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "lenient")]
    pub platform: Option<PlatformDocument>,
}

document! {
    /// The platform of a descriptor.
    #[derive(PartialEq, Eq)]
    PlatformDocument {
        os: String,
        architecture: String,
        variant: String,
        #[serde(rename = "os.version")]
        os_version: String,
    }
}

document! {
    /// A manifest of any kind.
    ManifestDocument {
        artifact_type: String,
        config: Option<DescriptorDocument>,
        layers: Capped<DescriptorDocument, DESCRIPTORS_MAX>,
        /// Of the artifact manifests that came before OCI 1.1.
        blobs: Capped<DescriptorDocument, DESCRIPTORS_MAX>,
        manifests: Capped<DescriptorDocument, DESCRIPTORS_MAX>,
        subject: Option<DescriptorDocument>,
        annotations: Pairs,
    }
}

document! {
    /// The config of an image.
    ConfigDocument {
        created: String,
        author: String,
        architecture: String,
        variant: String,
        os: String,
        #[serde(rename = "os.version")]
        os_version: String,
        config: ContainerDocument,
        history: Capped<HistoryDocument>,
    }
}

/// How a container is run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerDocument {
    #[serde(deserialize_with = "lenient")]
    pub user: String,
    #[serde(deserialize_with = "lenient")]
    pub entrypoint: Capped<String>,
    #[serde(deserialize_with = "lenient")]
    pub cmd: Capped<String>,
    #[serde(deserialize_with = "lenient")]
    pub env: Capped<String>,
    #[serde(deserialize_with = "lenient")]
    pub exposed_ports: Pairs,
    #[serde(deserialize_with = "lenient")]
    pub volumes: Pairs,
    #[serde(deserialize_with = "lenient")]
    pub labels: Pairs,
    #[serde(deserialize_with = "lenient")]
    pub working_dir: String,
    #[serde(deserialize_with = "lenient")]
    pub stop_signal: String,
}

/// One step of the history.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HistoryDocument {
    #[serde(deserialize_with = "lenient")]
    pub created_by: String,
    #[serde(deserialize_with = "lenient")]
    pub comment: String,
    #[serde(deserialize_with = "lenient")]
    pub empty_layer: bool,
}

document! {
    /// The config of a Helm chart: its `Chart.yaml`.
    ChartDocument {
        name: String,
        version: String,
        app_version: String,
        description: String,
        home: String,
        r#type: String,
        kube_version: String,
        deprecated: bool,
        icon: String,
        keywords: Capped<String>,
        sources: Capped<String>,
        dependencies: Capped<ChartDependency>,
        maintainers: Capped<ChartMaintainer>,
        annotations: Pairs,
    }
}

document! {
    ChartDependency {
        name: String,
        version: String,
        repository: String,
        condition: String,
    }
}

document! {
    ChartMaintainer {
        name: String,
        email: String,
        url: String,
    }
}

/// An SBOM: SPDX or CycloneDX, in itself or as the predicate of an in-toto statement.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SbomDocument {
    #[serde(deserialize_with = "lenient")]
    spdx_version: String,
    #[serde(deserialize_with = "lenient")]
    bom_format: String,
    #[serde(deserialize_with = "lenient")]
    spec_version: String,
    packages: Capped<SpdxPackage, PACKAGES_MAX>,
    components: Capped<CycloneComponent, PACKAGES_MAX>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpdxPackage {
    #[serde(deserialize_with = "lenient")]
    name: String,
    #[serde(deserialize_with = "lenient")]
    version_info: String,
    #[serde(deserialize_with = "lenient")]
    license_concluded: String,
    #[serde(deserialize_with = "lenient")]
    license_declared: String,
    #[serde(deserialize_with = "lenient")]
    external_refs: Capped<SpdxReference, 20>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpdxReference {
    #[serde(deserialize_with = "lenient")]
    reference_type: String,
    #[serde(deserialize_with = "lenient")]
    reference_locator: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CycloneComponent {
    #[serde(deserialize_with = "lenient")]
    name: String,
    #[serde(deserialize_with = "lenient")]
    version: String,
    #[serde(deserialize_with = "lenient")]
    purl: String,
    #[serde(deserialize_with = "lenient")]
    licenses: Capped<CycloneLicense, 20>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CycloneLicense {
    #[serde(deserialize_with = "lenient")]
    expression: String,
    #[serde(deserialize_with = "lenient")]
    license: CycloneLicenseName,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CycloneLicenseName {
    #[serde(deserialize_with = "lenient")]
    id: String,
    #[serde(deserialize_with = "lenient")]
    name: String,
}

/// A package of an SBOM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SbomPackage {
    pub name: String,
    pub version: String,
    pub licence: String,
    /// Package URL.
    pub purl: String,
}

/// The packages of an SBOM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sbom {
    /// `SPDX-2.3`, `CycloneDX 1.5`.
    pub format: String,
    pub packages: Vec<SbomPackage>,
    /// How many are not read.
    pub more: usize,
}

document! {
    /// An in-toto statement.
    StatementDocument {
        #[serde(rename = "_type")]
        kind: String,
        predicate_type: String,
        subject: Capped<StatementSubject, 50>,
        predicate: ProvenanceDocument,
    }
}

document! {
    StatementSubject {
        name: String,
        digest: Pairs,
    }
}

document! {
    /// SLSA provenance, version 0.2 or 1.
    ProvenanceDocument {
        builder: BuilderDocument,
        build_type: String,
        invocation: InvocationDocument,
        materials: Capped<MaterialDocument, 100>,
        build_definition: BuildDefinition,
        run_details: RunDetails,
    }
}

document! { BuilderDocument { id: String, } }
document! { InvocationDocument { config_source: MaterialDocument, } }
document! { MaterialDocument { uri: String, digest: Pairs, entry_point: String, } }
document! { RunDetails { builder: BuilderDocument, } }
document! {
    BuildDefinition {
        build_type: String,
        resolved_dependencies: Capped<MaterialDocument, 100>,
    }
}

/// An envelope (DSSE) around a statement; the payload is base64.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvelopeDocument {
    #[serde(deserialize_with = "lenient")]
    pub payload_type: String,
    #[serde(deserialize_with = "lenient")]
    pub payload: String,
    /// Of a sigstore bundle.
    #[serde(deserialize_with = "lenient")]
    pub dsse_envelope: Option<InnerEnvelope>,
}

document! { InnerEnvelope { payload_type: String, payload: String, } }

/// The predicate of a statement as its own text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PredicateText<'a> {
    #[serde(borrow)]
    predicate: Option<&'a RawValue>,
}

/// A document; `None` if it is not a JSON object of this kind: an array would be read as its fields in order.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// The payload of an envelope (DSSE), or of the one in a sigstore bundle, whatever signed it.
pub fn decode_envelope(bytes: &[u8]) -> Option<Vec<u8>> {
    let envelope: EnvelopeDocument = parse(bytes)?;
    let payload = match envelope.dsse_envelope {
        Some(inner) => inner.payload,
        None => envelope.payload,
    };
    let payload = base64::engine::general_purpose::STANDARD.decode(payload).ok()?;
    (!payload.is_empty()).then_some(payload)
}

/// The packages of an SBOM, or of one that a statement carries. `None`: it is of no known format.
pub fn parse_sbom(bytes: &[u8]) -> Option<Sbom> {
    let direct: Option<SbomDocument> = parse(bytes);
    let sbom = direct.and_then(SbomDocument::into_sbom);
    sbom.or_else(|| {
        let statement: PredicateText<'_> = serde_json::from_slice(bytes).ok()?;
        parse::<SbomDocument>(statement.predicate?.get().as_bytes())?.into_sbom()
    })
}

impl SbomDocument {
    fn into_sbom(self) -> Option<Sbom> {
        if !self.spdx_version.is_empty() {
            let Capped { items, more } = self.packages;
            let packages = items.into_iter().map(SpdxPackage::into_package).collect();
            return Some(Sbom { format: self.spdx_version, packages, more });
        }
        if self.bom_format.eq_ignore_ascii_case("CycloneDX") {
            let Capped { items, more } = self.components;
            let packages = items.into_iter().map(CycloneComponent::into_package).collect();
            let format = format!("CycloneDX {}", self.spec_version);
            return Some(Sbom { format, packages, more });
        }
        None
    }
}

impl SpdxPackage {
    fn into_package(self) -> SbomPackage {
        let is_known = |licence: &String| !["", "NOASSERTION", "NONE"].contains(&licence.as_str());
        let licence = [self.license_concluded, self.license_declared].into_iter().find(is_known);
        let mut references = self.external_refs.items.into_iter();
        let purl = references.find(|reference| reference.reference_type == "purl");
        SbomPackage {
            name: self.name,
            version: self.version_info,
            licence: licence.unwrap_or_default(),
            purl: purl.map(|reference| reference.reference_locator).unwrap_or_default(),
        }
    }
}

impl CycloneComponent {
    fn into_package(self) -> SbomPackage {
        let names = self.licenses.items.into_iter().map(|licence| {
            let names = [licence.expression, licence.license.id, licence.license.name];
            names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
        });
        SbomPackage {
            name: self.name,
            version: self.version,
            licence: names.collect::<Vec<_>>().join(", "),
            purl: self.purl,
        }
    }
}

/// A document as indented JSON, if it is JSON of a size that is shown.
pub fn pretty(bytes: &[u8]) -> Option<String> {
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return None;
    }
    indent(std::str::from_utf8(bytes).ok()?)
}

/// Maximum bytes of an indented document.
const INDENTED_BYTES_MAX: usize = 2 << 20;
/// Maximum nesting that is indented.
const INDENT_MAX: usize = 24;

/// Indents JSON text without interpreting it: numbers, escapes and repeated names stay as they are.
fn indent(text: &str) -> Option<String> {
    let _: IgnoredAny = serde_json::from_str(text).ok()?;
    let mut pretty = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut previous = ' ';
    let newline = |pretty: &mut String, depth: usize| {
        pretty.push('\n');
        pretty.extend(std::iter::repeat_n("  ", depth.min(INDENT_MAX)));
    };
    for c in text.chars() {
        if pretty.len() > INDENTED_BYTES_MAX {
            return None;
        }
        if in_string {
            pretty.push(c);
            (in_string, is_escaped) = match c {
                '"' if !is_escaped => (false, false),
                '\\' => (true, !is_escaped),
                _ => (true, false),
            };
            previous = c;
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => continue,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !matches!(previous, '{' | '[') {
                    newline(&mut pretty, depth);
                }
                pretty.push(c);
            }
            _ => {
                if matches!(previous, '{' | '[' | ',') && depth > 0 {
                    newline(&mut pretty, depth);
                }
                match c {
                    '{' | '[' => depth += 1,
                    '"' => in_string = true,
                    _ => {}
                }
                pretty.push(c);
                if c == ':' {
                    pretty.push(' ');
                }
            }
        }
        previous = c;
    }
    Some(pretty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_wrong_types_are_absent() {
        let config: ConfigDocument = parse(
            br#"{"architecture": 7, "os": "linux", "config": {"Env": ["A=1", 2, "B=2"], "Labels": {"a": "1", "b": {"c": null}},
                "Cmd": "sh", "ExposedPorts": {"80/tcp": {}}}, "history": [{"created_by": "x", "empty_layer": "yes"}, 3]}"#,
        )
        .expect("a config");
        assert_eq!((config.architecture.as_str(), config.os.as_str()), ("", "linux"));
        assert_eq!(config.config.env.items, ["A=1", "B=2"]);
        assert_eq!(config.config.labels.get("b"), Some(r#"{"c": null}"#));
        assert!(config.config.cmd.items.is_empty());
        assert_eq!(config.history.items.len(), 1);
        assert!(!config.history.items[0].empty_layer);
    }

    #[test]
    fn lists_are_cut_and_counted() {
        let list = format!(r#"{{"history": [{}]}}"#, vec!["{}"; ITEMS_MAX + 5].join(","));
        let config: ConfigDocument = parse(list.as_bytes()).expect("a config");
        assert_eq!((config.history.items.len(), config.history.more), (ITEMS_MAX, 5));
        let labels: Vec<_> = (0..PAIRS_MAX + 2).map(|index| format!(r#""{index}":"x""#)).collect();
        let pairs: Pairs = parse(format!("{{{}}}", labels.join(",")).as_bytes()).expect("pairs");
        assert_eq!((pairs.items.len(), pairs.more), (PAIRS_MAX, 2));
    }

    #[test]
    fn deep_nesting_is_refused_without_a_crash() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(parse::<ConfigDocument>(deep.as_bytes()).is_none());
        let inner = format!(r#"{{"config": {deep}, "os": "linux"}}"#);
        let _ = parse::<ConfigDocument>(inner.as_bytes());
        let _ = pretty(inner.as_bytes());
    }

    #[test]
    fn packages_of_both_formats_are_found() {
        let spdx = br#"{"spdxVersion": "SPDX-2.3", "packages": [{"name": "openssl", "versionInfo": "3.0", "licenseConcluded":
            "NOASSERTION", "licenseDeclared": "Apache-2.0", "externalRefs": [{"referenceType": "purl", "referenceLocator": "pkg:deb/openssl"}]}]}"#;
        let package = SbomPackage {
            name: "openssl".to_owned(),
            version: "3.0".to_owned(),
            licence: "Apache-2.0".to_owned(),
            purl: "pkg:deb/openssl".to_owned(),
        };
        let sbom = parse_sbom(spdx).expect("an SBOM");
        assert_eq!((sbom.format.as_str(), &sbom.packages), ("SPDX-2.3", &vec![package.clone()]));
        let text = std::str::from_utf8(spdx).expect("UTF-8");
        let statement = format!(r#"{{"_type": "x", "predicate": {text}}}"#);
        assert_eq!(parse_sbom(statement.as_bytes()), Some(sbom));
        let cyclone = br#"{"bomFormat": "CycloneDX", "specVersion": "1.5", "components": [{"name": "openssl", "version": "3.0",
            "licenses": [{"license": {"id": "Apache-2.0"}}], "purl": "pkg:deb/openssl"}, "wrong"]}"#;
        let sbom = parse_sbom(cyclone).expect("an SBOM");
        assert_eq!((sbom.format.as_str(), &sbom.packages), ("CycloneDX 1.5", &vec![package]));
        assert_eq!(parse_sbom(b"{}"), None);
    }

    #[test]
    fn json_is_indented_as_it_is() {
        let json = r#"{"a":[1,2],"b":{},"a":"x\"{,}\\","c":1.50}"#;
        let expected = "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {},\n  \"a\": \"x\\\"{,}\\\\\",\n  \"c\": 1.50\n}";
        assert_eq!(pretty(json.as_bytes()).as_deref(), Some(expected));
        assert_eq!(pretty(b"{"), None);
        assert_eq!(pretty(b"\xff"), None);
    }
}
