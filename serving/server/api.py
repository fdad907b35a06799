"""Describes the HTTP interface: as OpenAPI for programs, and as a page that loads nothing else for people."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

VERSION = "1"
COVERAGE = {
    "name": "coverage",
    "in": "query",
    "description": "share of new images whose prediction set holds their class",
    "schema": {"type": "number", "minimum": 0.5, "maximum": 0.99, "default": 0.9},
}
LABEL = {
    "name": "label",
    "in": "query",
    "description": "the class to explain; without it the one that the model answers",
    "schema": {"type": "string"},
}
ERRORS = {
    "400": "the body is empty or damaged, or no image of it can be read",
    "401": "the token is missing or wrong",
    "404": "there is no such model",
    "408": "the request did not come in time",
    "413": "too many bytes or images",
    "415": "a type of body that is not read",
    "422": "a parameter is wrong",
    "429": "too many requests at once",
    "503": "no replica could answer in time, or the model is still starting",
}


def make_openapi(names: Sequence[str], *, with_token: bool) -> dict[str, Any]:
    """Make the OpenAPI description of a server with these models, the first of which is the default."""
    model = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(names)},
    }
    predict = _post("Labels for one or many images", "Predictions", [COVERAGE], _bodies(many=True))
    explain = _post("What the model looked at in one image", "Explanation", [LABEL], _bodies(many=False))
    explain["responses"]["501"] = _error("this server has no explanations")
    reload = _post("Serve what the model's directory holds now", "Reload", [model], None)
    reload["responses"]["409"] = _error("the new version cannot be served; the old one goes on")
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Unfreeze: a classifier at work",
            "version": VERSION,
            "description": f"Without a name {names[0]} answers. Models: {', '.join(names)}.",
        },
        "paths": {
            "/predict": {"post": predict},
            "/explain": {"post": explain},
            "/models": {"get": _get("The models, their classes and cards")},
            "/models/{name}/predict": {"post": _with_parameter(predict, model)},
            "/models/{name}/explain": {"post": _with_parameter(explain, model)},
            "/models/{name}/reload": {"post": reload},
            "/health": {"get": _get("200 once all models answer, 503 before")},
            "/metrics": {"get": _get("Counters for Prometheus", kind="text/plain")},
        },
        "components": {"schemas": _schemas()},
    }
    if with_token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _post(summary: str, schema: str, parameters: list[Any], content: dict[str, Any] | None) -> dict[str, Any]:
    body = {} if content is None else {"requestBody": {"required": True, "content": content}}
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {
        "summary": summary,
        "parameters": parameters,
        **body,
        "responses": {
            "200": {"description": summary, "content": {"application/json": reference}},
            **{status: _error(why) for status, why in ERRORS.items()},
        },
    }


def _with_parameter(operation: dict[str, Any], parameter: dict[str, Any]) -> dict[str, Any]:
    return {**operation, "parameters": [parameter, *operation["parameters"]]}


def _get(summary: str, kind: str = "application/json") -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}}}


def _error(why: str) -> dict[str, Any]:
    reference = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {"description": why, "content": {"application/json": reference}}


def _bodies(*, many: bool) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    text = {"type": "string", "description": "base64 of either alphabet, also as a data: URL"}
    one = {"type": "object", "required": ["image"], "properties": {"image": text}}
    several = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "minItems": 1, "items": text}},
    }
    form = {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}
    return {
        "image/*": binary,
        "application/octet-stream": binary,
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": {"oneOf": [one, several]} if many else one},
    }


def _schemas() -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "number"}
    row = {
        "name": {"type": ["string", "null"], "description": "of the file, in a form"},
        "label": text,
        "probability": number,
        "second": {"type": ["string", "null"]},
        "second_probability": {"type": ["number", "null"]},
        "set": {"type": "array", "items": text, "description": "the prediction set"},
        "known": {"type": ["boolean", "null"], "description": "false: like none of the classes"},
        "probabilities": {"type": "object", "additionalProperties": number},
        "error": {"type": "string", "description": "instead of all else: why the image cannot be read"},
    }
    grid = {"type": "array", "items": {"type": "array", "items": number}}
    return {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": text}},
        "Predictions": {
            "type": "object",
            "properties": {
                "model": text,
                "version": text,
                "predictions": {"type": "array", "items": {"type": "object", "properties": row}},
            },
        },
        "Explanation": {
            "type": "object",
            "properties": {"label": text, "grid": grid, "size": {"type": "integer"}},
        },
        "Reload": {
            "type": "object",
            "properties": {"model": text, "version": text, "was": text, "changed": {"type": "boolean"}},
        },
    }


def make_docs_page(described: dict[str, Any], style: str) -> str:
    """Make a page of an OpenAPI description.

    Args:
        style: the style sheet's address.
    """
    sections = [
        _section(method, path, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]
    info = described["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(info["title"])}</title><link rel="stylesheet" href="{style}"></head>'
        f"<body><main><h1>{html.escape(info['title'])}</h1><p>{html.escape(info['description'])} "
        '<a href="/openapi.json">openapi.json</a> is the same for programs, '
        '<a href="/">the page</a> tries it.</p>'
        f"{''.join(sections)}</main></body></html>"
    )


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    head = f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
    items = [
        f"<li>{one['in']} <code>{one['name']}</code> {html.escape(one.get('description', ''))}</li>"
        for one in operation.get("parameters", [])
    ]
    kinds = operation.get("requestBody", {}).get("content", {})
    if kinds:
        items.append("<li>body " + ", ".join(f"<code>{html.escape(kind)}</code>" for kind in kinds) + "</li>")
    items += [
        f"<li>{status} {html.escape(response['description'])}</li>"
        for status, response in operation["responses"].items()
    ]
    return f"{head}<p>{html.escape(operation['summary'])}</p><ul>{''.join(items)}</ul>"
