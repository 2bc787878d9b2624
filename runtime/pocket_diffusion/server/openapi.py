"""The description of our own API, made from the very table that routes its requests."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pocket_diffusion.version import __version__

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """Something that a client can ask for."""

    method: str
    path: str
    handler: Handler
    """Its docstring says what it does."""
    answers: dict[int, type | str]
    """By status: the form of the answer, or why there is an error."""
    body: type | None = None
    media_type: str = "application/json"
    """Of the good answer."""
    notes: str = ""

    @property
    def route(self) -> Route:
        """Return the route to the handler."""
        return Route(self.path, self.handler, methods=[self.method], name=self.handler.__name__)


_FOR_ALL: dict[int, type | str] = {
    401: "The token is missing or wrong.",
    403: "The request is for another host, or comes from the page of another site.",
    500: "The server failed.",
}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error."""

    error: Fault
    detail: str


def describe(operations: Sequence[Operation], root: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of some operations under a path."""
    bodies = [operation.body for operation in operations if operation.body is not None]
    answers = [form for operation in operations for form in operation.answers.values() if isinstance(form, type)]
    kinds = list(dict.fromkeys([*bodies, *answers, Refusal]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pocket Diffusion",
            "version": __version__,
            "description": "Pictures from prompts. Where the server has a token, send it as `Authorization: Bearer`.",
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic", "description": "Any name, and the token."},
            },
        },
        "security": [{}, {"token": []}, {"password": []}],
    }


def _describe(operation: Operation, schema_of: Mapping[type, dict[str, Any]]) -> dict[str, Any]:
    summary = (inspect.getdoc(operation.handler) or "").partition("\n")[0]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    responses: dict[str, Any] = {}
    for status, form in (operation.answers | _FOR_ALL).items():
        if isinstance(form, str):
            content = {"application/json": {"schema": schema_of[Refusal]}}
            responses[str(status)] = {"description": form, "content": content}
        else:
            schema = schema_of[form] if operation.media_type == "application/json" else {"type": "string"}
            responses[str(status)] = {"description": summary, "content": {operation.media_type: {"schema": schema}}}
    found: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": summary,
        "parameters": parameters,
        "responses": responses,
    }
    if operation.notes:
        found["description"] = operation.notes
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return found
