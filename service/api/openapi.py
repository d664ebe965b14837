"""The OpenAPI document, with the bodies that FastAPI does not read itself; a test submits its examples."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from lncis.api import Adjustment, Labels, ProblemDocument
from lncis.studies.spec import StudySpec

_STUDY = {
    "name": "gamma_and_A",
    "question": "Do gamma and A matter together?",
    "base": {"noise": {"type": "symmetric", "rate": 0.4, "seed": 0}, "schedule": {"epochs": 12, "stage1_epochs": 6}},
    "search": {
        "loss.gamma": {"type": "categorical", "choices": [4.0, 6.0, 8.0]},
        "loss.A": {"type": "categorical", "choices": [-2.0, -4.0]},
    },
    "seeds": [0, 1],
}
EXAMPLES = {
    "study": {"summary": "A complete study", "value": _STUDY},
    "preset": {
        "summary": "A shipped study, with changes",
        "value": {"preset": "gamma_sweep", "set": {"noise.rate": 0.2, "seeds": [0]}},
    },
}

_SET = {"type": "object", "description": "Dotted path of a study's or a training's field -> value."}
_PRESET = {
    "type": "object",
    "title": "PresetRequest",
    "required": ["preset"],
    "additionalProperties": False,
    "properties": {
        "preset": {"type": "string", "description": "A name of GET /presets."},
        "set": _SET,
    },
}

_SCHEMA = {"anyOf": [{"$ref": "#/components/schemas/StudyDocument"}, {"$ref": "#/components/schemas/PresetRequest"}]}
STUDY_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": _SCHEMA, "examples": EXAMPLES},
        "application/yaml": {"schema": _SCHEMA, "examples": EXAMPLES},
    },
}
_EXTENSION = {
    "type": "object",
    "title": "ExtensionRequest",
    "required": ["set"],
    "additionalProperties": False,
    "properties": {"set": _SET},
}
_EXAMPLE = {"seeds": {"summary": "One more seed", "value": {"set": {"seeds": [0, 1, 2]}}}}
EXTENSION_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        kind: {"schema": {"$ref": "#/components/schemas/ExtensionRequest"}, "examples": _EXAMPLE}
        for kind in ("application/json", "application/yaml")
    },
}
ADJUSTMENT_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Adjustment"}}},
}

LABELS_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Labels"}}},
}


def operation_id(route: APIRoute) -> str:
    """Return the name of an operation, which is that of its function in generated clients too."""
    return route.name


def install(app: FastAPI, *, tokens: bool) -> None:
    """Give an app its OpenAPI document; without `tokens` no operation asks for one."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas |= _with_parts("ProblemDocument", ProblemDocument.model_json_schema(ref_template=_REF))
            schemas |= _with_parts("Adjustment", Adjustment.model_json_schema(ref_template=_REF))
            schemas |= _with_parts("Labels", Labels.model_json_schema(ref_template=_REF))
            schemas |= _with_parts("StudyDocument", TypeAdapter(StudySpec).json_schema(ref_template=_REF))
            schemas["PresetRequest"] = _PRESET
            schemas["ExtensionRequest"] = _EXTENSION
            _never_null(made)
            _require(made, "/studies/{study_id}", "patch", "if-match")
            if not tokens:
                _without_login(made)
            app.openapi_schema = _for_generators(made)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _without_login(document: dict[str, Any]) -> None:
    del document["components"]["securitySchemes"]
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)


def _never_null(document: dict[str, Any]) -> None:
    """Take null out of the schemas of parameters: it is FastAPI's word for one that may be left out.

    None can be sent in a query, a header or a path: generated clients would send the text "null".
    """
    for operations in document["paths"].values():
        for parameter in (one for operation in operations.values() for one in operation.get("parameters", ())):
            schema = parameter["schema"]
            kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
            schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}


def _for_generators(schema: Any) -> Any:
    """Return a schema with `enum: [value]` for `const: value`.

    Both say the same, but generators of clients know no const: openapi-python-client leaves out what has one.
    """
    if isinstance(schema, list):
        return [_for_generators(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    names = {"const": "enum"}
    return {names.get(key, key): [part] if key == "const" else _for_generators(part) for key, part in schema.items()}


def _require(document: dict[str, Any], path: str, method: str, header: str) -> None:
    """Mark a header as required; FastAPI would then answer 422 for its absence, in place of 428."""
    (parameter,) = (p for p in document["paths"][path][method]["parameters"] if p["name"].lower() == header)
    parameter |= {"required": True, "schema": {"type": "string"}}


_REF = "#/components/schemas/{model}"


def _with_parts(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema.pop("$defs", {}), name: {**schema, "title": name}}
