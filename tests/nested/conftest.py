"""A nested server made of a function: what is asked of it goes in, what it answers comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import tenacity
from pydantic import SecretStr

from loopnest_nested.client import NestedServer

Answer = httpx.Response | Exception


@dataclass
class Fake:
    """Answers each ``METHOD /path`` from a list, the last of which stays; notes what it was asked."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    def on(self, what: str, *answers: Answer) -> Fake:
        self.answers[what] = list(answers)
        return self

    def asked(self, what: str) -> list[httpx.Request]:
        return [request for request in self.requests if f"{request.method} {request.url.path}" == what]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answers = self.answers.get(f"{request.method} {request.url.path}", [httpx.Response(404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def server(self) -> NestedServer:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return NestedServer("http://nested", SecretStr("session-key"), http)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("wait_exponential", "wait_random"):
        monkeypatch.setattr(tenacity, wait, lambda *_, **__: tenacity.wait_none())


@pytest.fixture
def answer() -> Callable[..., httpx.Response]:
    def of(status: int = 200, body: Any = None) -> httpx.Response:
        return httpx.Response(status, json={"success": True} if body is None else body)

    return of
