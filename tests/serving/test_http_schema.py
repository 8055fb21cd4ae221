"""The OpenAPI document, and random requests from it: no 500, and no answer that it does not describe."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from tests.serving.servers import running

_NONE = [*HealthCheck]
OPERATIONS = [
    ("POST", "/v1/completions"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/sessions"),
    ("DELETE", "/v1/sessions/{session}"),
    ("POST", "/v1/sessions/{session}/append"),
    ("POST", "/v1/sessions/{session}/generate"),
    ("PUT", "/v1/sessions/{session}/state"),
]


@pytest.fixture(scope="module")
def server(served):
    with running({"linear": served["linear"]}, deadline_s=5.0) as server:
        yield server


def test_document_describes_every_route(server) -> None:
    status, _, document = server.ask("GET", "/openapi.json")
    assert status == 200
    assert {(m.upper(), path) for path, entry in document["paths"].items() for m in entry if m != "parameters"} >= {
        *OPERATIONS
    }
    schemathesis.openapi.from_dict(document).validate()
    for path in document["paths"]:
        answer = server.ask("TRACE", path.replace("{", "").replace("}", ""))
        assert answer[0] == 405, path  # there is a route


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_random_requests_find_no_500(server, method, path) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    session = server.ask("POST", "/v1/sessions", {"model": "linear"})[2]["id"]
    statuses = set()

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=40, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=_NONE)
    def try_out(case) -> None:
        if "model" in (case.body if isinstance(case.body, dict) else {}):
            case.body["model"] = "linear"  # otherwise there is nothing but 404
        if "session" in (case.path_parameters or {}) and len(case.path_parameters["session"]) % 2:
            case.path_parameters["session"] = session
        answer = case.call(base_url=server.url)
        statuses.add(answer.status_code)
        case.validate_response(
            answer,
            checks=[checks.not_a_server_error, checks.response_schema_conformance, checks.status_code_conformance],
        )

    try_out()
    assert statuses
    assert max(statuses) < 500
