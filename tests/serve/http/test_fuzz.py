"""The API, fuzzed from its own description: whatever fits it, or nearly does, gets an answer in time, and never a 5xx.

`STILLHOUSE_FUZZ=300` asks for that many requests of each operation; the suite asks for a few.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import APIOperation, checks

from stillhouse.models import Model
from stillhouse.serve.access import limits
from stillhouse.serve.engine import engine
from stillhouse.serve.service import Config
from stillhouse.store import Store
from tests.serve.served import LAZY, Served, save, serving

EXAMPLES = int(os.environ.get("STILLHOUSE_FUZZ", "6"))
SECONDS = 20.0
ENDLESS = {"/v1/events"}  # a stream that ends with the server: tests/serve/test_app.py follows it
Operation = APIOperation[Any, Any, Any, Any]
STATUSES = {400, 401, 403, 404, 405, 408, 409, 413, 422, 429}


@pytest.fixture(scope="module")
def served(
    random_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, str]]:
    """A server with an admin's key, one user with a version, and no limit on requests."""
    home, model = tmp_path_factory.mktemp("fuzzed") / "home", random_model("qwen3")
    save(Store(home), model, "0", 1)
    config = Config(
        policy=LAZY, slots=2, default_tokens=2, limits=limits.Config(requests_per_minute=None),
        engine=engine.Config(queue=8, queue_per_user=8),
    )  # fmt: skip
    with serving(home, model, config) as running:
        yield running, running.service.keyring.create("admin")[0]


def operations(url: str) -> list[Operation]:
    """What the server's own description says can be asked."""
    found = [result.ok() for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]  # type: ignore[union-attr]
    return [operation for operation in found if operation.path not in ENDLESS]


@pytest.mark.slow
def test_whatever_fits_the_description_is_answered(served: tuple[Served, str]) -> None:
    running, secret = served
    found = operations(running.url)
    assert len(found) > 25
    for operation in found:
        ask(running, secret, operation)
        with running.http() as http:
            assert http.get("/healthz").status_code == 200, f"after {operation.label}"


def ask(running: Served, secret: str, operation: Operation) -> None:
    """Many requests of one operation, all of them answered."""

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def answered(case: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {secret}"}
        reply = case.call(base_url=running.url, timeout=SECONDS)
        case.validate_response(reply, checks=[checks.not_a_server_error])
        assert reply.status_code < 400 or reply.status_code in STATUSES, reply.text
        if reply.status_code >= 400:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}

    answered()
