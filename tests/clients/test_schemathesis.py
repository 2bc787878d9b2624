"""Requests made up from our own description: none may break the server, or get an answer that is not described."""

import json
import shutil
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server.openapi import Operation
from pocket_diffusion.server.rest import OPERATIONS
from serving import RunningServer, running_server

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that draws quickly where nothing else is asked for, and refuses most of what could be drawn."""
    bundle = shutil.copytree(DEFAULT_BUNDLE, tmp_path_factory.mktemp("quick") / "landscapes")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["defaults"] |= {"width": 64, "height": 64, "steps": 1}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with running_server("--model", bundle, "--queue", 3) as server:
        yield server


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_good_requests_get_answers_that_are_described(server: RunningServer, operation: Operation) -> None:
    ask(server, operation, GenerationMode.POSITIVE)


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation.body], ids=named)
def test_bad_requests_are_refused(server: RunningServer, operation: Operation) -> None:
    ask(server, operation, GenerationMode.NEGATIVE)


def ask(server: RunningServer, operation: Operation, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    requests = schema[operation.path][operation.method].as_strategy(generation_mode=mode)

    @given(case=requests)
    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=120)

    send()
