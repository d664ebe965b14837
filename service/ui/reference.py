"""The API's reference as people read it: operations and schemas of the OpenAPI document, flat enough for a page."""

import json
from typing import Any


def view(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the page of an OpenAPI document shows."""
    operations = [
        {
            "method": method.upper(),
            "path": path,
            "anchor": operation["operationId"],
            "says": operation.get("description") or operation.get("summary", ""),
            "parameters": [_parameter(parameter) for parameter in operation.get("parameters", [])],
            "bodies": _bodies(operation.get("requestBody", {})),
            "answers": [_answer(status, answer) for status, answer in operation["responses"].items()],
        }
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = document.get("components", {}).get("schemas", {})
    return {
        "title": document["info"]["title"],
        "says": document["info"]["description"],
        "operations": operations,
        "names": list(schemas),
        "schemas": [
            {"name": name, "says": schema.get("description", ""), "fields": _fields(schema)}
            for name, schema in sorted(schemas.items())
        ],
    }


def kind(schema: dict[str, Any]) -> str:
    """Return a schema's type in few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(kind(one) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    more = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(more, dict):
        return f"mapping to {kind(more)}"
    return str(schema.get("type", "anything"))


def _parameter(parameter: dict[str, Any]) -> dict[str, str]:
    schema = parameter.get("schema", {})
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "kind": kind(schema),
        "default": json.dumps(schema["default"]) if schema.get("default") is not None else "",
        "says": parameter.get("description", ""),
    }


def _bodies(body: dict[str, Any]) -> list[dict[str, str]]:
    """Return each kind of body; examples are the same for all, and shown with the first."""
    found: list[dict[str, str]] = []
    for media_type, content in body.get("content", {}).items():
        examples = [] if found else [e["value"] for e in content.get("examples", {}).values()]
        text = "\n\n".join(json.dumps(example, indent=2) for example in examples)
        found.append({"media_type": media_type, "kind": kind(content.get("schema", {})), "examples": text})
    return found


def _answer(status: str, answer: dict[str, Any]) -> dict[str, str]:
    kinds = dict.fromkeys(kind(content["schema"]) for content in answer.get("content", {}).values() if content)
    return {"status": status, "says": answer.get("description", ""), "kind": ", ".join(kinds)}


def _fields(schema: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"name": name, "kind": kind(field), "says": field.get("description", "")}
        for name, field in schema.get("properties", {}).items()
    ]
