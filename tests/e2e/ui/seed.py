"""Fills a registry with content to look at: images, a chart, files, what is attached to them, a history.

    seed.py http://localhost:5000 [plain | login | mirror]

plain: nothing hostile; login: for those who log in; mirror: pulls by a mirror

Plain HTTP and the standard library only. The content is the same each time.
"""

import base64
import gzip
import hashlib
import io
import json
import random
import sys
import tarfile
import urllib.request

OCI = "application/vnd.oci.image."
CONFIG, MANIFEST, INDEX = OCI + "config.v1+json", OCI + "manifest.v1+json", OCI + "index.v1+json"
LAYER = OCI + "layer.v1.tar+gzip"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
         "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}


class Registry:
    """A client of one registry."""

    def __init__(self, base, credentials=None):
        self.base = base.rstrip("/")
        self.random = random.Random(7)
        self.headers = {}
        if credentials:
            self.headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()

    def send(self, method, path, body=None, headers=None):
        request = urllib.request.Request(self.base + path, data=body, method=method, headers={**self.headers, **(headers or {})})
        with urllib.request.urlopen(request) as response:
            return response.read(), response.headers

    def blob(self, repository, content, media_type, **fields):
        """Pushes a blob and returns its descriptor."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.send("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", content,
                  {"Content-Type": "application/octet-stream"})
        return {"mediaType": media_type, "digest": digest, "size": len(content), **fields}

    def layer(self, repository, size):
        return self.blob(repository, self.random.randbytes(size), LAYER)

    def mount(self, repository, layer, source):
        self.send("POST", f"/v2/{repository}/blobs/uploads/?mount={layer['digest']}&from={source}")
        return layer

    def manifest(self, repository, reference, document, media_type=MANIFEST):
        """Pushes a manifest by a tag, or by its digest, and returns its descriptor."""
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.send("PUT", f"/v2/{repository}/manifests/{reference or digest}", body, {"Content-Type": media_type})
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def image(self, repository, reference, layers, platform, version, annotations=None):
        os, architecture = platform.split("/")[:2]
        config = {
            "created": "2026-11-12T09:30:00Z", "os": os, "architecture": architecture, "author": "Web team",
            "config": {
                "User": "nginx", "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
                "Entrypoint": ["/docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"],
                "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", f"NGINX_VERSION={version}", "TZ=UTC"],
                "Labels": {
                    "org.opencontainers.image.source": "https://git.example.com/web/nginx",
                    "org.opencontainers.image.version": version,
                    "org.opencontainers.image.licenses": "BSD-2-Clause",
                    "maintainer": "Web team <web@example.com>",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            "history": [
                {"created_by": "/bin/sh -c #(nop) ADD file:1f2c in / "},
                {"created_by": f"ENV NGINX_VERSION={version}", "empty_layer": True},
                {"created_by": "RUN /bin/sh -c set -eux; apt-get update; \\\n    apt-get install --no-install-recommends --no-install-suggests -y nginx ca-certificates; \\\n    rm -rf /var/lib/apt/lists/* # buildkit", "comment": "buildkit.dockerfile.v0"},
                {"created_by": "COPY docker-entrypoint.sh / # buildkit"},
                {"created_by": 'CMD ["nginx" "-g" "daemon off;"]', "empty_layer": True},
            ],
        }
        described = self.blob(repository, json.dumps(config).encode(), CONFIG)
        document = {"config": described, "layers": layers}
        if annotations:
            document["annotations"] = annotations
        return self.manifest(repository, reference, document)

    def multi_platform(self, repository, tag, version, base):
        entries = []
        for platform in ("linux/amd64", "linux/arm64", "linux/arm/v7"):
            layers = [base[platform], self.layer(repository, 180_000), self.layer(repository, 1_400)]
            entry = self.image(repository, None, layers, platform, version)
            parts = platform.split("/")
            entry["platform"] = {"os": parts[0], "architecture": parts[1], **({"variant": parts[2]} if len(parts) > 2 else {})}
            entries.append(entry)
            entries.append(self.attestation(repository, entry))
        return self.manifest(repository, tag, {"manifests": entries, "annotations": {
            "org.opencontainers.image.created": "2026-11-12T09:30:00Z",
            "org.opencontainers.image.url": "https://nginx.example.com/",
            "org.opencontainers.image.title": "nginx",
        }}, INDEX)

    def attestation(self, repository, entry):
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"name": "pkg:docker/nginx", "digest": {"sha256": entry["digest"][7:]}}],
            "predicate": {
                "builder": {"id": "https://ci.example.com/builders/7"},
                "buildType": "https://mobyproject.org/buildkit@v1",
                "invocation": {"configSource": {"uri": "https://git.example.com/web/nginx.git#refs/heads/main",
                                                "digest": {"sha1": "5d1c2b"}, "entryPoint": "Dockerfile"}},
                "materials": [{"uri": "pkg:docker/debian@bookworm-slim", "digest": {"sha256": "9f3a"}}],
            },
        }
        layer = self.blob(repository, json.dumps(statement).encode(), "application/vnd.in-toto+json",
                          annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"})
        config = self.blob(repository, b'{"architecture":"unknown","os":"unknown"}', CONFIG)
        pushed = self.manifest(repository, None, {"config": config, "layers": [layer]})
        return {**pushed, "platform": {"os": "unknown", "architecture": "unknown"}, "annotations": {
            "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": entry["digest"]}}

    def referrer(self, repository, subject, artifact_type, content, annotations=None):
        self.blob(repository, b"{}", EMPTY["mediaType"])
        layer = self.blob(repository, content, artifact_type)
        document = {"artifactType": artifact_type, "config": EMPTY, "layers": [layer], "subject": subject}
        return self.manifest(repository, None, {**document, "annotations": annotations or {}})


def sbom(packages):
    return json.dumps({"spdxVersion": "SPDX-2.3", "name": "nginx", "packages": [
        {"name": name, "versionInfo": version, "licenseConcluded": licence,
         "externalRefs": [{"referenceType": "purl", "referenceLocator": f"pkg:deb/debian/{name}@{version}"}]}
        for name, version, licence in packages]}).encode()


FINDINGS = [
    ("CVE-2026-21417", "9.8", "openssl", "3.0.15-1", "3.0.16-1", "A crafted certificate overflows a buffer in the verification of names"),
    ("CVE-2026-20881", "7.5", "libc6", "2.36-9", "2.36-10", "A long host name exhausts memory in the resolver"),
    ("CVE-2026-19004", "5.3", "zlib1g", "1.2.13", "", "An archive of a certain form is read twice"),
    ("CVE-2025-44821", "3.1", "ca-certificates", "20230311", "20240203", "A revoked authority is still trusted"),
]


def scan_report():
    rules = [{"id": name, "helpUri": f"https://avd.example.com/{name}", "shortDescription": {"text": text},
              "properties": {"security-severity": score}} for name, score, _, _, _, text in FINDINGS]
    results = [{"ruleId": name, "ruleIndex": index, "level": "error", "message": {"text": f"Package: {package}\nInstalled Version: {version}\nVulnerability {name}\nFixed Version: {fixed}"}}
               for index, (name, _, package, version, fixed, _) in enumerate(FINDINGS)]
    driver = {"name": "Trivy", "version": "0.58.1", "rules": rules}
    return json.dumps({"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}).encode()


def vex_document():
    product = [{"@id": "pkg:oci/nginx?repository_url=registry.example.com/library"}]
    statements = [
        {"vulnerability": {"name": "CVE-2026-21417"}, "products": product, "status": "not_affected",
         "justification": "vulnerable_code_not_in_execute_path", "impact_statement": "nginx verifies names by itself"},
        {"vulnerability": {"name": "CVE-2026-20881"}, "products": product, "status": "affected", "action_statement": "Update to 1.27.3"},
        {"vulnerability": {"name": "CVE-2026-19004"}, "products": product, "status": "under_investigation"},
    ]
    return json.dumps({"@context": "https://openvex.dev/ns/v0.2.0", "author": "Web team", "version": 1, "statements": statements}).encode()


README = """# Shop

The web shop with its workers and a cache.

## Install

    helm install shop oci://registry.example.com/charts/shop --version %s

## Values

| Key          | Default | What it is                     |
|--------------|---------|--------------------------------|
| replicas     | 2       | Number of instances of the web |
| redis.enable | true    | Whether a cache is installed   |

<b>This is plain text</b>, whatever it contains.
"""


def chart_archive(version, templates):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (("Chart.yaml", b"name: shop\n"), ("templates/all.yaml", templates), ("README.md", (README % version).encode())):
            member = tarfile.TarInfo("shop/" + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def fill_for_logins(base):
    """What everyone may see, and what only some may."""
    registry = Registry(base, "writer:correct horse")
    for name in ("library/nginx", "team/secret"):
        registry.image(name, "v1", [registry.layer(name, 120_000), registry.layer(name, 44_000), registry.layer(name, 900)], "linux/amd64", "4.2")


def pull_by_mirror(base):
    """What people have pulled by a mirror."""
    registry = Registry(base, "root:correct horse")
    for name in ("team/api", "team/web"):
        path = f"/v2/hub.example.com/{name}"
        body, _ = registry.send("GET", f"{path}/manifests/main", None, {"Accept": MANIFEST})
        manifest = json.loads(body)
        for blob in [manifest["config"], *manifest["layers"]]:
            registry.send("GET", f"{path}/blobs/{blob['digest']}")


def fill(base, is_plain):
    registry = Registry(base)
    nginx = "library/nginx"
    layers = {platform: registry.layer(nginx, 900_000) for platform in ("linux/amd64", "linux/arm64", "linux/arm/v7")}
    for version in ("1.25.5", "1.26.2", "1.27.0", "1.27.1", "1.27.2"):
        pushed = registry.multi_platform(nginx, version, version, layers)
        for tag in (version.rsplit(".", 1)[0], "latest", "stable"):
            registry.send("PUT", f"/v2/{nginx}/manifests/{tag}", registry.send("GET", f"/v2/{nginx}/manifests/{version}", None, {"Accept": INDEX})[0], {"Content-Type": INDEX})
    packages = [("openssl", "3.0.15-1", "Apache-2.0"), ("libc6", "2.36-9", "LGPL-2.1-or-later"), ("zlib1g", "1.2.13", "Zlib"),
                ("nginx", "1.27.2-1", "BSD-2-Clause"), ("ca-certificates", "20230311", "GPL-2.0-or-later")]
    registry.referrer(nginx, pushed, "application/spdx+json", sbom(packages), {"org.opencontainers.image.created": "2026-11-12T09:31:00Z"})
    registry.referrer(nginx, pushed, "application/vnd.dev.sigstore.bundle.v0.3+json", b'{"messageSignature": {}}',
                      {"dev.sigstore.bundle.content": "message-signature"})
    registry.referrer(nginx, pushed, "application/sarif+json", scan_report())
    registry.referrer(nginx, pushed, "application/vnd.openvex+json", vex_document())
    for version in ("1.27.0-alpine", "1.27.1-alpine", "1.27.2-alpine"):
        alpine = [registry.layer(nginx, 310_000), registry.layer(nginx, 90_000), registry.layer(nginx, 1_200)]
        registry.image(nginx, version, alpine, "linux/amd64", version)
    chart = "charts/shop"
    config = registry.blob(chart, json.dumps({
        "name": "shop", "version": "2.4.1", "appVersion": "2026.11", "description": "The web shop with its workers and a cache.",
        "type": "application", "kubeVersion": ">=1.29", "home": "https://shop.example.com", "keywords": ["shop", "web"],
        "maintainers": [{"name": "Shop team", "email": "shop@example.com"}],
        "dependencies": [{"name": "redis", "version": "19.x", "repository": "oci://registry.example.com/charts"}],
    }).encode(), "application/vnd.cncf.helm.config.v1+json")
    for version in ("2.4.0", "2.4.1"):
        layer = registry.blob(chart, chart_archive(version, registry.random.randbytes(24_000)), "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
        registry.manifest(chart, version, {"config": config, "layers": [layer]})
    files = "data/models"
    registry.blob(files, b"{}", EMPTY["mediaType"])
    parts = [registry.blob(files, registry.random.randbytes(size), "application/octet-stream", annotations={"org.opencontainers.image.title": name})
             for name, size in (("weights.bin", 400_000), ("tokenizer.json", 9_000), ("README.md", 700))]
    registry.manifest(files, "v3", {"artifactType": "application/vnd.example.model", "config": EMPTY, "layers": parts})
    for name in ("team/api", "team/worker", "team/web", "platform/ingress", "platform/metrics/agent", "tools/backup"):
        # What they are built on is what nginx is built on.
        base = registry.mount(name, layers["linux/amd64"], nginx)
        registry.image(name, "main", [base, registry.layer(name, 120_000), registry.layer(name, 44_000), registry.layer(name, 900)], "linux/amd64", "4.2")
    old = registry.image("team/api", "rc", [registry.layer("team/api", 50_000)], "linux/amd64", "4.1")
    registry.send("DELETE", f"/v2/team/api/manifests/{old['digest']}")
    if not is_plain:
        hostile(registry)


def hostile(registry):
    """What somebody pushes who wants to harm those who look."""
    name = "zz/hostile"
    layer = registry.layer(name, 2_000)
    script = "<script>document.title='taken'</script>"
    config = {"architecture": script, "os": "linux\u202egnp.exe", "history": [{"created_by": f"RUN {script} \u200b" + "A" * 9000}],
              "config": {"User": script, "Labels": {script: "javascript:alert(1)", "a": "https://user@evil.example/", "b\u202e": "x\u0000y"},
                         "Env": [f"X={script}"], "Cmd": [script], "Entrypoint": {"not": "a list"}}}
    described = registry.blob(name, json.dumps(config).encode(), CONFIG)
    registry.manifest(name, "image", {"config": described, "layers": [layer], "annotations": {script: script, "org.opencontainers.image.url": "javascript:alert(1)", "z": "e\u0301\u0301\u0301\u0301\u0301\u0301\u0301"}})
    registry.blob(name, b"{}", EMPTY["mediaType"])
    page = registry.blob(name, f"<html><body>{script}</body></html>".encode(), "text/html", annotations={"org.opencontainers.image.title": f"../../{script}\u202ehtml.txt"})
    registry.manifest(name, "file", {"artifactType": "text/html", "config": EMPTY, "layers": [page]})


if __name__ == "__main__":
    if "login" in sys.argv:
        fill_for_logins(sys.argv[1])
    elif "mirror" in sys.argv:
        pull_by_mirror(sys.argv[1])
    else:
        fill(sys.argv[1], "plain" in sys.argv)
