"""The one pooled HTTP client, and a nested server seen through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import JsonValue, SecretStr

from loopnest import NestedError, Reason

_HEADER = "X-Session-API-Key"


def new_http_client() -> httpx.AsyncClient:
    """Return the client that a strategy keeps while it is open.

    One for all nested servers, as a new client costs 20 ms for its TLS context. It ignores proxies of the environment:
    nested servers are near.
    """
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=200, keepalive_expiry=30)
    return httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(30, connect=3), trust_env=False)


@dataclass(frozen=True)
class NestedServer:
    """Where one nested server is, and what opens it."""

    url: str
    session_key: SecretStr
    http: httpx.AsyncClient = field(repr=False)

    async def request(self, method: str, path: str, *, timeout: float | None = None, **options: Any) -> JsonValue:
        """Send a request and return the JSON (or text) of a successful answer.

        Args:
            timeout: seconds for the whole answer, instead of the client's 30.

        Raises:
            NestedError: ``nested-unreachable``, ``nested-timeout``, or ``nested-refused`` with ``http_status``.
        """
        response = await self.respond(method, path, timeout=timeout, **options)
        if response.is_success:
            is_json = response.headers.get("content-type", "").startswith("application/json")
            return response.json() if is_json else response.text
        raise NestedError(
            f"The nested server answered {method} {path} with {response.status_code}: {response.text[:300]}",
            http_status=response.status_code,
        )

    async def respond(
        self, method: str, path: str, *, timeout: float | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request and return the answer, whatever its status.

        Raises:
            NestedError: ``nested-unreachable`` or ``nested-timeout``.
        """
        if timeout is not None:
            options["timeout"] = timeout
        headers = {_HEADER: self.session_key.get_secret_value()}
        try:
            return await self.http.request(method, f"{self.url}{path}", headers=headers, **options)
        except httpx.TimeoutException as error:
            raise NestedError(
                f"The nested server did not answer {method} {path} in time.", reason=Reason.NESTED_TIMEOUT
            ) from error
        except httpx.HTTPError as error:
            raise NestedError(
                f"The nested server can't be reached for {method} {path}: {type(error).__name__}.",
                reason=Reason.NESTED_UNREACHABLE,
            ) from error
