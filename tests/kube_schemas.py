"""What Kubernetes and KubeRay accept: JSON schemas of the kinds that service/deploy/kuberay/ uses, in one small file.

    python tests/kube_schemas.py KUBERAY_CHECKOUT kubernetes_validate-1.37.0-py3-none-any.whl

makes tests/kube_schemas.json anew: from the custom resource definitions of KubeRay at `KUBERAY`, and from the schemas
of Kubernetes that the package kubernetes-validate holds. Left out are descriptions and the status, which the cluster
writes; all other fields are there. Where a schema lists the fields of an object, others are refused.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FILE = Path(__file__).with_name("kube_schemas.json")
KUBERAY, KUBERNETES = "v1.7.0", "v1.37.0"
CRDS = ("rayclusters", "rayjobs")
CORE = ("configmap-v1", "deployment-apps-v1", "networkpolicy-networking-v1", "persistentvolumeclaim-v1", "service-v1")
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
SHARED_LENGTH = 120  # characters from which what occurs twice is written once

Schema = dict[str, Any]


def mistakes(document: Schema) -> list[str]:
    """Return what is wrong with a manifest, a line each, with its path."""
    schemas = json.loads(FILE.read_text())
    kind = f"{document.get('apiVersion')} {document.get('kind')}"
    if kind not in schemas["kinds"]:
        return [f"{kind}: no schema of that kind is known"]
    validator = Draft202012Validator({"$defs": schemas["$defs"], **schemas["kinds"][kind]})
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]


def _made(checkout: Path, wheel: Path) -> Schema:
    kinds, sources = dict[str, Schema](), dict[str, str]()
    with zipfile.ZipFile(wheel) as package:
        folder = f"kubernetes_validate/kubernetes-json-schema/{KUBERNETES}-local-strict"
        definitions = json.loads(package.read(f"{folder}/_definitions.json"))["$defs"]
        for name in CORE:
            text = package.read(f"{folder}/{name}.json")
            sources[f"kubernetes {KUBERNETES} {name}"] = hashlib.sha256(text).hexdigest()
            schema = json.loads(text)
            version, kind = (schema["properties"][field]["enum"][0] for field in ("apiVersion", "kind"))
            kinds[f"{version} {kind}"] = schema
    for name in CRDS:
        path = f"helm-chart/kuberay-operator/crds/ray.io_{name}.yaml"
        text = subprocess.run(
            ["git", "-C", checkout, "show", f"{KUBERAY}:{path}"], capture_output=True, check=True
        ).stdout
        sources[f"kuberay {KUBERAY} {path}"] = hashlib.sha256(text).hexdigest()
        definition = yaml.safe_load(text)["spec"]
        (version,) = (version for version in definition["versions"] if version["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"$ref": META}
        kinds[f"ray.io/v1 {definition['names']['kind']}"] = schema
    kinds = {kind: _reduced(schema, root=True) for kind, schema in kinds.items()}
    needed, found = dict[str, Schema](), list(kinds.values())
    while found:  # of the definitions those that the kinds lead to
        for name in _referred(found.pop()) - needed.keys():
            needed[name] = _reduced(definitions[name])
            found.append(needed[name])
    everything = {**kinds, **needed}
    occurs = Counter[str]()
    for schema in everything.values():
        _count(schema, occurs)
    shared = dict[str, Schema]()
    kinds = {kind: _written_once(schema, occurs, shared) for kind, schema in sorted(kinds.items())}
    needed = {name: _written_once(schema, occurs, shared) for name, schema in sorted(needed.items())}
    return {"sources": sources, "kinds": kinds, "$defs": needed | dict(sorted(shared.items()))}


def _reduced(node: Any, *, root: bool = False, names: bool = False) -> Any:
    """Return a schema without what does not decide; `names`: the node's keys are names of fields."""
    if isinstance(node, list):
        return [_reduced(each) for each in node]
    if not isinstance(node, dict):
        return node.rpartition("/")[2] if isinstance(node, str) and node.startswith("/api/_definitions.json") else node
    if names:
        return {name: _reduced(schema) for name, schema in node.items()}
    kept = {
        key: _reduced(value, names=key in ("properties", "$defs"))
        for key, value in node.items()
        if key not in ("description", "default", "format") and not key.startswith("x-")
    }
    if root:
        kept["properties"].pop("status", None)
        kept["required"] = sorted({*kept.get("required", ()), "apiVersion", "kind", "metadata"})
    if "$ref" in kept:
        return {"$ref": f"#/$defs/{kept['$ref'].rpartition('/')[2]}"}
    if "properties" in kept and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def _referred(node: Any) -> set[str]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {node["$ref"].rpartition("/")[2]} if isinstance(node, dict) and isinstance(node.get("$ref"), str) else set()
    return own.union(*map(_referred, inner))


def _text(node: Any) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"))


def _count(node: Any, occurs: Counter[str]) -> None:
    if isinstance(node, dict | list):
        occurs[_text(node)] += 1
        for inner in node.values() if isinstance(node, dict) else node:
            _count(inner, occurs)


def _is_schema(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("type"), str | list)


def _written_once(node: Any, occurs: Counter[str], shared: dict[str, Schema], *, top: bool = True) -> Any:
    if isinstance(node, list):
        return [_written_once(each, occurs, shared, top=False) for each in node]
    if not isinstance(node, dict):
        return node
    text = _text(node)
    made = {key: _written_once(value, occurs, shared, top=False) for key, value in node.items()}
    if top or not _is_schema(node) or occurs[text] < 2 or len(text) < SHARED_LENGTH:
        return made
    name = hashlib.sha256(text.encode()).hexdigest()[:6]
    assert shared.setdefault(name, made) == made
    return {"$ref": f"#/$defs/{name}"}


if __name__ == "__main__":
    FILE.write_text(_text(_made(Path(sys.argv[1]), Path(sys.argv[2]))) + "\n")
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")
