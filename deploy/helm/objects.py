"""Checks rendered objects, and writes the configuration file in them.

    objects.py RENDERED.yaml OUT.toml
"""
import sys

import yaml

try:
    import kubernetes_validate
except ImportError:
    kubernetes_validate = None

VERSION = "1.31.0"
# Kinds of the API server itself; the others are of operators.
CORE = {
    "ConfigMap", "Secret", "Service", "ServiceAccount", "Deployment", "StatefulSet", "Ingress", "HorizontalPodAutoscaler",
    "PodDisruptionBudget", "NetworkPolicy", "Pod",
}


def pods(obj):
    if obj["kind"] in ("Deployment", "StatefulSet"):
        yield obj["spec"]["template"]["spec"]
    elif obj["kind"] == "Pod":
        yield obj["spec"]


def restricted(spec):
    """What the restricted profile of Pod Security Standards forbids."""
    context = spec["securityContext"]
    if not context.get("runAsNonRoot") or context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "the pod may run as root, or without seccomp"
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"container {container['name']} may gain privileges"
        for mount in container.get("volumeMounts", []):
            if "subPath" in mount:
                yield f"{mount['name']} is mounted by subPath, and is never reloaded"


def main():
    rendered, out = sys.argv[1:]
    errors, config = [], None
    with open(rendered, encoding="utf-8") as file:
        objects = [obj for obj in yaml.safe_load_all(file) if obj]
    for obj in objects:
        name = f"{obj['kind']} {obj['metadata']['name']}"
        if kubernetes_validate and obj["kind"] in CORE:
            try:
                kubernetes_validate.validate(obj, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                errors.append(f"{name}: {error.message}")
        for spec in pods(obj):
            errors.extend(f"{name}: {why}" for why in restricted(spec))
        config = (obj.get("data") or {}).get("jreg.toml", config) if obj["kind"] == "ConfigMap" else config
    with open(out, "w", encoding="utf-8") as file:
        file.write(config)
    if not kubernetes_validate:
        print("    kubernetes-validate is not installed: objects are not validated", file=sys.stderr)
    for error in errors:
        print(f"FAIL {rendered}: {error}")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
