"""Checks a manifest's shape: infra/kuberay's strict ray.io/v1 schema over Kubernetes' own strict definitions."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "infra" / "kuberay"
KUBERNETES = "v1.34.0-local-strict"
"""Which of kubernetes-validate's definitions: the older of the releases that clouds run now refuses more."""

Manifest = dict[str, Any]


def has_kubernetes_definitions() -> bool:
    """Whether the kubernetes-validate package, which carries the definitions, is installed."""
    return importlib.util.find_spec("kubernetes_validate") is not None


def load(name: str) -> Manifest:
    """A one-document manifest of infra/kuberay by file name."""
    manifest: Manifest = yaml.safe_load((KUBERAY / name).read_text(encoding="utf-8"))
    return manifest


def schema_problems(manifest: Manifest) -> list[str]:
    """What the schema of its kind says against the manifest, as "path: message"; empty when nothing."""
    kind = manifest.get("kind")
    if kind not in ("RayJob", "RayCluster"):
        return [f"kind: {kind!r} is neither RayJob nor RayCluster"]
    validator = Draft202012Validator({"$ref": f"{_ray_schema()['$id']}#/$defs/{kind}"}, registry=_registry())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def kubernetes_problems(document: Manifest, definition: str) -> list[str]:
    """The same for a plain Kubernetes object, against one of Kubernetes' definitions (io.k8s.api....)."""
    reference = f"{_kubernetes_definitions()['$id']}#/$defs/{definition}"
    validator = Draft202012Validator({"$ref": reference}, registry=_registry())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def loose_objects(schema: object, path: str = "$") -> Iterator[str]:
    """Places of a schema that list properties without refusing others."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("properties"), Mapping) and schema.get("additionalProperties") is not False:
            yield path
        for key, value in schema.items():
            yield from loose_objects(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from loose_objects(value, f"{path}[{index}]")


@cache
def _ray_schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load((KUBERAY / "ray-v1.schema.yaml").read_text(encoding="utf-8"))
    return schema


@cache
def _kubernetes_definitions() -> dict[str, Any]:
    # Found, not imported: the package's own code is not needed, its files are.
    found = importlib.util.find_spec("kubernetes_validate")
    assert found is not None, "kubernetes-validate is not installed"
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "kubernetes-json-schema" / KUBERNETES
    definitions: dict[str, Any] = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    return definitions


@cache
def _registry() -> Registry[Any]:
    schemas = (_ray_schema(), _kubernetes_definitions())
    return Registry().with_resources([(schema["$id"], DRAFT202012.create_resource(schema)) for schema in schemas])
