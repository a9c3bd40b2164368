"""The description of the service in OpenAPI 3.1, made from the tables that requests are read by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hakg_dgl.serving.bounds import Bounds
from hakg_dgl.serving.endpoints import ENDPOINTS, Endpoint

_ERROR = {"$ref": "#/components/schemas/Error"}


def description(bounds: Bounds, version: str) -> dict[str, Any]:
    """The whole description, JSON values.

    Parameters
    ----------
    bounds
        The limits that requests are held to; they stand in the schemas.
    version
        Of the package.
    """
    paths: dict[str, Any] = {endpoint.path: {"get": _get(endpoint, bounds)} for endpoint in ENDPOINTS}
    paths["/recommend"]["post"] = _batch(bounds)
    paths["/similar"]["post"] = _similar()
    paths["/reload"] = {"post": _plain("Read the run again; a broken one is refused with its reason.", refused="409")}
    paths["/healthz"] = {"get": _plain("The process answers.")}
    paths["/readyz"] = {"get": _plain("The run ranks.")}
    paths["/metrics"] = {"get": _text("Counts and times in the text format of Prometheus.", "text/plain")}
    paths["/openapi.json"] = {"get": _plain("This description.")}
    paths["/"] = {"get": _text("The page for people.", "text/html")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "hakg serve", "version": version, "description": "Lists of a trained recommender."},
        "paths": paths,
        "components": {
            "schemas": {"Error": _error_schema(), "Batch": _batch_schema(bounds), "AskedItem": _item_schema(bounds)}
        },
    }


def _get(endpoint: Endpoint, bounds: Bounds) -> dict[str, Any]:
    parameters = []
    for parameter in endpoint.parameters:
        described: dict[str, Any] = {
            "name": parameter.name,
            "in": "query",
            "required": parameter.required,
            "description": parameter.about,
            "schema": parameter.schema(bounds),
        }
        if parameter.example is not None:
            described["example"] = [parameter.example] if parameter.kind == "texts" else parameter.example
        parameters.append(described)
    return {
        "summary": endpoint.about,
        "operationId": endpoint.path.strip("/"),
        "parameters": parameters,
        "responses": {"200": _answer(_object(endpoint.fields)), **_refusals("400", "404", "503")},
    }


def _batch(bounds: Bounds) -> dict[str, Any]:
    lists = {"type": "array", "items": _object(ENDPOINTS[0].fields), "maxItems": bounds.users}
    about = "The lists of several users: known ones, and new ones by their items and attributes; also of new items."
    found = {"type": "object", "properties": {"lists": lists, "new_items": _COUNTS}, "required": ["lists"]}
    return _posted(about, "recommendBatch", "Batch", found)


def _similar() -> dict[str, Any]:
    (endpoint,) = (endpoint for endpoint in ENDPOINTS if endpoint.path == "/similar")
    found = _object(endpoint.fields)
    found["properties"]["new_items"] = _COUNTS
    return _posted(f"{endpoint.about[:-1]}; the item and the others may be new.", "similarTo", "AskedItem", found)


def _posted(about: str, name: str, body: str, found: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body}"}
    return {
        "summary": about,
        "operationId": name,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _answer(found), **_refusals("400", "404", "408", "413", "415", "503")},
    }


def _plain(about: str, *, refused: str = "") -> dict[str, Any]:
    answers = {"200": _answer({"type": "object"}), **_refusals(*([refused] if refused else []), "503")}
    return {"summary": about, "responses": answers}


def _text(about: str, kind: str) -> dict[str, Any]:
    return {"summary": about, "responses": {"200": {"description": about, "content": {kind: {}}}}}


def _answer(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {
        status: {"description": _STATUSES[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in statuses
    }


_STATUSES = {
    "400": "Something in the request is not allowed.",
    "404": "There is no such user or item.",
    "408": "The body did not come in time.",
    "409": "The newer run is broken; the earlier one goes on answering.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "503": "Too much is at work, or it took too long; Retry-After says when to try again.",
}


_COUNTS = {
    "type": "object",
    "description": "what was found of the new items, with counts",
    "additionalProperties": {"type": "integer"},
}


def _object(fields: Mapping[str, str]) -> dict[str, Any]:
    properties = {name: {"description": about} for name, about in fields.items()}
    return {"type": "object", "properties": properties, "required": list(fields)}


def _error_schema() -> dict[str, Any]:
    texts = {"problem": {"type": "string"}, "remedy": {"type": "string"}}
    error = {
        "type": "object",
        "required": ["status", "problem"],
        "properties": {"status": {"type": "integer"}, **texts},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _texts(bounds: Bounds) -> tuple[dict[str, Any], dict[str, Any]]:
    """A text, and a list of texts."""
    text = {"type": "string", "maxLength": bounds.text_letters}
    return text, {"type": "array", "items": text, "maxItems": bounds.given_items}


def _filter_schemas(bounds: Bounds) -> dict[str, Any]:
    """Of the keys that every body may have."""
    text, texts = _texts(bounds)
    conditions = {"type": "array", "items": text, "maxItems": bounds.conditions}
    row = {
        "type": "object",
        "description": "a row of a catalogue: its id, and relation -> a value or several",
        "required": ["item"],
        "properties": {"item": text, "name": text},
        "maxProperties": bounds.item_columns,
        "additionalProperties": {"anyOf": [text, {"type": "number"}, {"type": "null"}, texts]},
    }
    return {
        "k": {"type": "integer", "minimum": 1, "maximum": bounds.list_length, "default": 20},
        "where": conditions,
        "at_most": conditions,
        "new_items": {"type": "array", "items": row, "maxItems": bounds.new_items},
    }


def _item_schema(bounds: Bounds) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["item"],
        "additionalProperties": False,
        "properties": {"item": {**_texts(bounds)[0], "minLength": 1}, **_filter_schemas(bounds)},
        "example": {"item": "new_1", "new_items": [{"item": "new_1", "made_by": "maker_3"}], "k": 5},
    }


def _batch_schema(bounds: Bounds) -> dict[str, Any]:
    text, texts = _texts(bounds)
    user = {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "id": {**text, "description": "of a user of the data set; without it the user is new"},
            "items": {**texts, "description": "items that the user has, beside those of the data set"},
            "attributes": {
                "type": "object",
                "description": "relation of users -> a value or several",
                "additionalProperties": {"anyOf": [text, texts]},
            },
        },
    }
    return {
        "type": "object",
        "required": ["users"],
        "additionalProperties": False,
        "properties": {
            "users": {"type": "array", "items": user, "minItems": 1, "maxItems": bounds.users},
            "include_seen": {"type": "boolean", "default": False},
            **_filter_schemas(bounds),
        },
        "example": {"users": [{"id": "user_7"}, {"items": ["item_1", "item_12"]}], "k": 5},
    }
