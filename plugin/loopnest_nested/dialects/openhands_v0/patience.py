"""Ask within the legacy server's rate limit.

It counts the requests of each client address, which for a nested server is the host as a whole: more than 10 within a
second are answered a second late, more than 20 are refused with 429. Clients that ask one thing at a time are only ever
slowed.
"""

from __future__ import annotations

from typing import Any, Final

import tenacity
from pydantic import JsonValue

from loopnest import NestedError, Reason
from loopnest_nested.client import NestedServer

#: Seconds in which a refused request is repeated; the limit itself looks back one second.
_PATIENCE: Final = 20


async def ask(server: NestedServer, method: str, path: str, *, repeatable: bool = True, **options: Any) -> JsonValue:
    """Send a request, again where the rate limit refused it, and return the answer.

    Args:
        repeatable: whether it may also be sent again where the connection failed, so that it may arrive twice.

    Raises:
        NestedError: as `NestedServer.request`.
    """

    def passes(error: BaseException) -> bool:
        if not isinstance(error, NestedError):
            return False
        return error.http_status == 429 or (repeatable and error.reason == Reason.NESTED_UNREACHABLE)

    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(passes),
        stop=tenacity.stop_after_delay(_PATIENCE),
        wait=tenacity.wait_exponential(multiplier=0.25, max=1) + tenacity.wait_random(0, 0.25),
        reraise=True,
    ):
        with attempt:
            return await server.request(method, path, **options)
    raise AssertionError  # the last attempt raises
