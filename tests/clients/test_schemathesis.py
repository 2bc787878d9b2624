"""Requests made up from our own description: none may break the server, or get an answer that is not described."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from serving import RunningServer, running_server

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--queue", 3) as server:  # most of what could be drawn is then refused, as it should be
        yield server


@pytest.fixture
def description(server: RunningServer) -> object:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_description_holds(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS, timeout=120)
