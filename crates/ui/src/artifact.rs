//! [`ArtifactKind`]: what a manifest is, by its types, and the commands that pull it.

use jreg_oci::{Digest, MediaType, Reference, RepositoryName};

use crate::document::{DescriptorDocument, ManifestDocument};

/// The annotation by which buildx attaches attestations to a platform of an index.
const ATTESTATION_TYPE: &str = "vnd.docker.reference.type";
const ATTESTATION_OF: &str = "vnd.docker.reference.digest";
/// The name of a file in an artifact.
pub(crate) const TITLE: &str = "org.opencontainers.image.title";

const HELM_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
const WASM_CONFIGS: [&str; 2] =
    ["application/vnd.wasm.config.v0+json", "application/vnd.wasm.config.v1+json"];
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const COSIGN_SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const COSIGN_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const NOTATION: &str = "application/vnd.cncf.notary.signature";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const DSSE: &str = "application/vnd.dsse.envelope.v1+json";
const MODEL_PACK: &str = "application/vnd.cncf.model.";

/// What a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// An index of images for several platforms.
    Index,
    Image,
    HelmChart,
    Signature,
    Sbom,
    /// Provenance or another statement about something.
    Attestation,
    Vex,
    ScanReport,
    Wasm,
    Model,
    /// Files.
    Files,
}

impl ArtifactKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "multi-platform image",
            Self::Image => "image",
            Self::HelmChart => "Helm chart",
            Self::Signature => "signature",
            Self::Sbom => "SBOM",
            Self::Attestation => "attestation",
            Self::Vex => "VEX document",
            Self::ScanReport => "scan report",
            Self::Wasm => "Wasm module",
            Self::Model => "model",
            Self::Files => "artifact",
        }
    }

    const ALL: [Self; 11] = [
        Self::Index,
        Self::Image,
        Self::HelmChart,
        Self::Signature,
        Self::Sbom,
        Self::Attestation,
        Self::Vex,
        Self::ScanReport,
        Self::Wasm,
        Self::Model,
        Self::Files,
    ];

    /// The kind that [`Self::name`] names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What a manifest is.
    pub fn of(media_type: &MediaType, manifest: &ManifestDocument) -> Self {
        if is_index(media_type, manifest) {
            return Self::Index;
        }
        let config = manifest.config.as_ref().map_or("", |config| config.media_type.as_str());
        if IMAGE_CONFIGS.contains(&config) && manifest.artifact_type.is_empty() {
            return match is_attestation(manifest) {
                true => Self::Attestation,
                false => Self::Image,
            };
        }
        let layers = files(manifest).iter().take(20).map(|layer| layer.media_type.as_str());
        let types = [manifest.artifact_type.as_str(), config].into_iter().chain(layers);
        let known = types.filter(|name| !name.is_empty()).find_map(Self::of_type);
        known.unwrap_or(Self::Files)
    }

    /// What a media type or artifact type says.
    pub fn of_type(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let has = |part: &str| lower.contains(part);
        if lower == HELM_CONFIG {
            return Some(Self::HelmChart);
        }
        if [COSIGN_SIGNATURE, COSIGN_ARTIFACT, NOTATION].contains(&lower.as_str()) {
            return Some(Self::Signature);
        }
        if WASM_CONFIGS.contains(&lower.as_str()) || lower == "application/wasm" {
            return Some(Self::Wasm);
        }
        if lower.starts_with(MODEL_PACK) {
            return Some(Self::Model);
        }
        if has("openvex") || has("csaf") || has("vex+json") {
            return Some(Self::Vex);
        }
        if has("spdx") || has("cyclonedx") || has("syft") {
            return Some(Self::Sbom);
        }
        if has("sarif") || has("vuln") || has("security-scan") {
            return Some(Self::ScanReport);
        }
        // What a bundle contains only its annotations or its content say.
        if has("sigstore.bundle") || [IN_TOTO, DSSE].contains(&lower.as_str()) || has("slsa") {
            return Some(Self::Attestation);
        }
        None
    }
}

/// What is attached to something, by its artifact type and annotations.
pub fn referrer_kind(artifact_type: &str, annotations: &crate::document::Pairs) -> ArtifactKind {
    let predicate = annotations.get("dev.sigstore.bundle.predicateType");
    let predicate = predicate.or_else(|| annotations.get("predicateType")).unwrap_or_default();
    if predicate.contains("cosign.sigstore.dev/attestation/sign")
        || annotations.get("dev.sigstore.bundle.content") == Some("message-signature")
    {
        return ArtifactKind::Signature;
    }
    let by_predicate = predicate_kind(predicate);
    let by_type = || ArtifactKind::of_type(artifact_type);
    by_predicate.or_else(by_type).unwrap_or(ArtifactKind::Files)
}

/// What a statement with this predicate is.
pub fn predicate_kind(predicate: &str) -> Option<ArtifactKind> {
    match predicate {
        "" => None,
        _ if predicate.contains("sign/v1") => Some(ArtifactKind::Signature),
        other => ArtifactKind::of_type(other).or(Some(ArtifactKind::Attestation)),
    }
}

fn is_index(media_type: &MediaType, manifest: &ManifestDocument) -> bool {
    let name = media_type.as_str();
    name.contains("image.index") || name.contains("manifest.list") || {
        manifest.config.is_none() && !manifest.manifests.items.is_empty()
    }
}

/// Whether the layers of an image are statements, as buildx attaches them.
fn is_attestation(manifest: &ManifestDocument) -> bool {
    let layers = &manifest.layers.items;
    !layers.is_empty() && layers.iter().all(|layer| layer.media_type == IN_TOTO)
}

/// The files of an artifact.
pub fn files(manifest: &ManifestDocument) -> &[DescriptorDocument] {
    match manifest.layers.items.is_empty() {
        true => &manifest.blobs.items,
        false => &manifest.layers.items,
    }
}

/// Whether an entry of an index is an attestation that buildx attached to another entry.
pub fn is_attached(entry: &DescriptorDocument) -> bool {
    entry.annotations.get(ATTESTATION_TYPE) == Some("attestation-manifest")
}

/// The entry to which an attestation is attached.
pub fn attached_to(entry: &DescriptorDocument) -> Option<Digest> {
    entry.annotations.get(ATTESTATION_OF)?.parse().ok()
}

/// `linux/arm64/v8`; the digest or the type of an entry without a platform.
pub fn platform_name(entry: &DescriptorDocument) -> String {
    let Some(platform) = &entry.platform else {
        return match entry.artifact_type.as_str() {
            "" => "no platform".to_owned(),
            artifact_type => artifact_type.to_owned(),
        };
    };
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    let named: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    match platform.os_version.is_empty() {
        true => named.join("/"),
        false => format!("{} {}", named.join("/"), platform.os_version),
    }
}

/// A tool with the command that pulls something with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullCommand {
    pub tool: &'static str,
    pub command: String,
}

/// The commands that pull something.
pub fn pull_commands(
    kind: ArtifactKind,
    host: &str,
    name: &RepositoryName,
    reference: &Reference,
) -> Vec<PullCommand> {
    let full = match reference {
        Reference::Tag(tag) => format!("{host}/{name}:{tag}"),
        Reference::Digest(digest) => format!("{host}/{name}@{digest}"),
    };
    let tool = |tool: &'static str, command: String| PullCommand { tool, command };
    match kind {
        ArtifactKind::Index | ArtifactKind::Image => vec![
            tool("Docker", format!("docker pull {full}")),
            tool("Podman", format!("podman pull {full}")),
            tool("nerdctl", format!("nerdctl pull {full}")),
            tool("crane", format!("crane pull {full} image.tar")),
            tool("skopeo", format!("skopeo copy docker://{full} oci:image")),
        ],
        ArtifactKind::HelmChart => vec![
            tool("Helm", helm_command("pull", host, name, reference)),
            tool("Helm, install", helm_command("install my-release", host, name, reference)),
            tool("ORAS", format!("oras pull {full}")),
        ],
        ArtifactKind::Wasm => vec![
            tool("wkg", format!("wkg oci pull {full}")),
            tool("ORAS", format!("oras pull {full}")),
            tool("crane", format!("crane pull {full} image.tar")),
        ],
        ArtifactKind::Model => vec![
            tool("modctl", format!("modctl pull {full}")),
            tool("ORAS", format!("oras pull {full}")),
        ],
        ArtifactKind::Signature
        | ArtifactKind::Sbom
        | ArtifactKind::Attestation
        | ArtifactKind::Vex
        | ArtifactKind::ScanReport
        | ArtifactKind::Files => vec![
            tool("ORAS", format!("oras pull {full}")),
            tool("crane", format!("crane manifest {full}")),
            tool("skopeo", format!("skopeo inspect --raw docker://{full}")),
        ],
    }
}

/// A tag cannot have the `+` of a version, which Helm writes as `_`.
fn helm_command(verb: &str, host: &str, name: &RepositoryName, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => {
            let version = tag.as_str().replace('_', "+");
            format!("helm {verb} oci://{host}/{name} --version {version}")
        }
        Reference::Digest(digest) => format!("helm {verb} oci://{host}/{name}@{digest}"),
    }
}

/// The command that looks at the signatures and attestations of something.
pub fn cosign_command(host: &str, name: &RepositoryName, digest: &Digest) -> String {
    format!("cosign tree {host}/{name}@{digest}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::document::parse;

    fn kind(media_type: &str, json: &str) -> ArtifactKind {
        let manifest = parse::<ManifestDocument>(json.as_bytes()).unwrap();
        ArtifactKind::of(&media_type.parse().unwrap(), &manifest)
    }

    #[test]
    fn kinds_follow_from_types() {
        let oci = "application/vnd.oci.image.manifest.v1+json";
        let index = "application/vnd.oci.image.index.v1+json";
        assert_eq!(kind(index, r#"{"manifests": []}"#), ArtifactKind::Index);
        for (config, expected) in [
            ("application/vnd.oci.image.config.v1+json", ArtifactKind::Image),
            ("application/vnd.cncf.helm.config.v1+json", ArtifactKind::HelmChart),
            ("application/vnd.wasm.config.v0+json", ArtifactKind::Wasm),
            ("application/vnd.cncf.model.config.v1+json", ArtifactKind::Model),
            ("application/vnd.example", ArtifactKind::Files),
        ] {
            let json = format!(r#"{{"config": {{"mediaType": "{config}"}}}}"#);
            assert_eq!(kind(oci, &json), expected, "{config}");
        }
        for (artifact_type, expected) in [
            ("application/spdx+json", ArtifactKind::Sbom),
            ("application/vnd.cyclonedx+json", ArtifactKind::Sbom),
            ("application/vnd.cncf.notary.signature", ArtifactKind::Signature),
            ("application/vnd.dev.sigstore.bundle.v0.3+json", ArtifactKind::Attestation),
            ("application/sarif+json", ArtifactKind::ScanReport),
            ("application/vnd.openvex+json", ArtifactKind::Vex),
            ("application/vnd.cyclonedx.vex+json", ArtifactKind::Vex),
            (
                "application/vnd.security.vulnerability.report; version=1.1",
                ArtifactKind::ScanReport,
            ),
            ("text/plain", ArtifactKind::Files),
        ] {
            let json = format!(r#"{{"artifactType": "{artifact_type}"}}"#);
            assert_eq!(kind(oci, &json), expected, "{artifact_type}");
        }
        let attestation = r#"{"config": {"mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": [{"mediaType": "application/vnd.in-toto+json"}]}"#;
        assert_eq!(kind(oci, attestation), ArtifactKind::Attestation);
    }

    #[test]
    fn a_chart_is_pulled_by_its_version() {
        let (name, tag) =
            ("charts/app".parse().unwrap(), Reference::Tag("1.0.0_build".parse().unwrap()));
        let commands = pull_commands(ArtifactKind::HelmChart, "r.example", &name, &tag);
        assert_eq!(
            commands[0].command,
            "helm pull oci://r.example/charts/app --version 1.0.0+build"
        );
        let commands = pull_commands(ArtifactKind::Image, "r.example", &name, &tag);
        assert_eq!(commands[0].command, "docker pull r.example/charts/app:1.0.0_build");
    }
}
