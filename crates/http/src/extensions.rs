//! `_oci/ext/discover`: which extensions of the API there are (distribution-spec, `extensions/_oci.md`).

use jreg_net::server::Response;
use jreg_oci::{Endpoint, RepositoryName};
use serde_json::{Value, json};

use crate::headers;

const OCI_URL: &str =
    "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md";

/// The extensions, with the endpoints of one repository or of all.
pub(crate) fn list(base_url: &str, name: Option<&RepositoryName>) -> Response {
    let ours = format!("{base_url}/openapi.yaml");
    let oci = "Discovery of extensions; the history of tags as drafted (experimental)";
    let jreg =
        "The history of tags with who changed them, deleted manifests, and how to restore both";
    let extensions = [extension("_oci", OCI_URL, oci, name), extension("_jreg", &ours, jreg, name)];
    headers::json(headers::JSON, &json!({ "extensions": extensions }))
}

fn extension(id: &str, url: &str, description: &str, name: Option<&RepositoryName>) -> Value {
    let component = format!("/{id}/");
    let templates = Endpoint::ALL.iter().map(|info| info.template);
    let endpoints = templates.filter(|template| template.contains(&component));
    let endpoints: Vec<String> = match name {
        None => endpoints.map(str::to_owned).collect(),
        Some(name) => endpoints
            .filter(|template| template.contains("{name}"))
            .map(|template| template.replace("{name}", name.as_str()))
            .collect(),
    };
    json!({ "name": id, "url": url, "description": description, "endpoints": endpoints })
}
