"""The one door to the docker SDK.

The SDK is synchronous: its calls run on threads of our own, with its connection pool sized to them, and the event loop
never waits for a socket. What the SDK raises leaves here as `EngineError` with a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import shutil
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import docker.constants
import docker.utils
import httpx
import requests
import urllib3
from docker.errors import APIError, DockerException, TLSParameterError

import docker
from loopnest import EngineError, Reason
from loopnest.aio import limited
from loopnest.models import utcnow
from loopnest_docker.connections import Connections
from loopnest_docker.settings import Engine as EngineSettings
from loopnest_docker.stream_client import new_stream_client

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
#: Seconds beyond the engine's own limit after which a call is given up that waits for a free thread.
_QUEUE_MARGIN: Final = 5.0


class NotOnEngine(EngineError):
    """The engine has no such object (any more)."""


class EngineConflict(EngineError):
    """The engine refuses because of the object's state, or because a name is taken."""


class Engine:
    """Calls the engine's API on threads; safe to use from one event loop."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="loopnest-engine")
        self._connections = Connections()
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._version: str | None = None
        self._ahead = timedelta()

    @property
    def url(self) -> str:
        """Where the engine is, for messages."""
        return self._settings.url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"

    @property
    def timeout(self) -> float:
        """Seconds the engine may take to answer one call."""
        return self._settings.timeout

    def now(self) -> datetime:
        """The time by the engine's clock, to about a second, as of its last answer; this host's before the first.

        What the engine dates (creation, end) is compared with this: the host's clock may be hours off.
        """
        return utcnow() + self._ahead

    async def call(self, method: str, *args: Any, limit: float | None = None, **kwargs: Any) -> Any:
        """Call ``method`` of the SDK's low-level client.

        Args:
            limit: seconds this call may take, where more than the configured timeout makes sense.

        Raises:
            NotOnEngine: 404. EngineConflict: 409. EngineError: all else, with its reason.
        """
        return await self.run(lambda client: getattr(client, method)(*args, **kwargs), limit=limit)

    async def run(self, work: Callable[[docker.APIClient], _T], *, limit: float | None = None) -> _T:
        """Run ``work`` with the SDK's low-level client on a thread; errors are those of `call`."""
        patience = max(limit or 0, self._settings.timeout) + _QUEUE_MARGIN
        future = asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(self._guarded, work))
        try:
            return await limited(future, patience)
        except asyncio.TimeoutError as error:
            raise self._silent() from error

    def connect(self, *, stream: bool = False) -> docker.APIClient:
        """Return a client; blocks, so call it on a thread.

        Args:
            stream: a separate client without a read limit, for streams that may be silent for long.
        """
        if stream:
            client = self._new_client()
            client.timeout = None  # type: ignore[assignment]
            return client
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def stream_client(self) -> httpx.AsyncClient:
        """Return a client for answers that go on for ever; its owner closes it.

        Raises:
            EngineError: streams are not possible the way the engine is reached.
        """
        return new_stream_client(self._options(), self._settings.timeout)

    async def aclose(self) -> None:
        """Release threads and connections. Calls in flight may end for a while; those that hang are ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        ended = asyncio.ensure_future(asyncio.to_thread(self._threads.shutdown))
        try:
            await asyncio.wait({ended}, timeout=_QUEUE_MARGIN)
        finally:
            self._connections.close()
        await asyncio.wait({ended}, timeout=self._settings.timeout + _QUEUE_MARGIN)
        if self._client:
            self._client.close()

    def _new_client(self) -> docker.APIClient:
        if self._version is None:
            # The SDK's own negotiation, in its constructor, leaks the connection where it fails.
            with contextlib.closing(self._client_for(docker.constants.MINIMUM_DOCKER_API_VERSION)) as asking:
                self._version = str(asking.version(api_version=False)["ApiVersion"])
        return self._client_for(self._version)

    def _client_for(self, version: str) -> docker.APIClient:
        timeout, threads = math.ceil(self._settings.timeout), self._settings.threads
        client = docker.APIClient(version=version, timeout=timeout, max_pool_size=threads, **self._options())
        _drop_missing_helpers(client)
        client.trust_env = False  # the engine is reached directly, without HTTP_PROXY and ~/.netrc
        client.hooks["response"] = [self._note_clock]
        self._connections.follow(client)
        return client

    def _options(self) -> dict[str, Any]:
        environment = dict(os.environ)
        if self._settings.url:
            environment["DOCKER_HOST"] = self._settings.url
        return dict(docker.utils.kwargs_from_env(environment=environment))

    def _note_clock(self, response: requests.Response, *_: Any, **__: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):  # other engines may send no date
            self._ahead = parsedate_to_datetime(response.headers["Date"]) - utcnow()

    def _guarded(self, work: Callable[[docker.APIClient], _T]) -> _T:
        try:
            return work(self.connect())
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise self._silent() from error
        except APIError as error:
            raise translate(error) from error
        except (DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> EngineError:
        if "timed out" in str(error).lower():
            return self._silent()
        if isinstance(error, DockerException):  # refused by the SDK, as for TLS files, or ssh without its package
            files = isinstance(error, TLSParameterError)
            hint = f" (DOCKER_CERT_PATH={os.environ.get('DOCKER_CERT_PATH')})" if files else ""
            message = f"The engine at {self.url} can't be used{hint}: {error}"
            return EngineError(message, reason=Reason.ENGINE_UNREACHABLE)
        return EngineError(
            f"The engine at {self.url} can't be reached ({type(error).__name__}). Is it running, and may this user "
            f"use it? 'loopnest doctor' looks closer.",
            reason=Reason.ENGINE_UNREACHABLE,
        )

    def _silent(self) -> EngineError:
        return EngineError(
            f"The engine at {self.url} did not answer within {self._settings.timeout:g} s "
            f"('loopnest.docker.engine.timeout').",
            reason=Reason.ENGINE_TIMEOUT,
        )


def _drop_missing_helpers(client: docker.APIClient) -> None:
    """Do without credential helpers that the user's configuration names and this machine lacks.

    That is common where Docker Desktop wrote the file. The SDK would fail every build and pull, also of public images,
    and has no public way to leave the helpers out.
    """
    configured = client._auth_configs  # type: ignore[attr-defined]
    named = {"": configured.get("credsStore"), **(configured.get("credHelpers") or {})}
    missing = {key: it for key, it in named.items() if it and shutil.which(f"docker-credential-{it}") is None}
    for registry in missing:
        configured.pop("credsStore", None) if registry == "" else configured["credHelpers"].pop(registry)
    for helper in set(missing.values()):
        _warn_of_missing(helper)


@functools.cache
def _warn_of_missing(helper: str) -> None:
    """Once in a process, which has several clients."""
    _log.warning(
        "The configuration of the docker command names the program docker-credential-%s, which is not installed: "
        "images are built and pulled without the logins that it stores.",
        helper,
    )


async def complete(work: Awaitable[_T], note: Callable[[_T], None]) -> _T:
    """Await ``work`` to its end, even when cancelled meanwhile, and ``note`` its result before going on or away.

    A call that makes something goes on in its thread when its caller is cancelled: without the result, what it
    made could not be removed.
    """
    task = asyncio.ensure_future(work)
    try:
        result = await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(EngineError):
            note(await task)
        raise
    note(result)
    return result


def translate(error: APIError) -> EngineError:
    """Return what an answer of the engine means."""
    text = str(error.explanation or error)
    status = error.response.status_code if error.response is not None else 0
    if status == 404:
        return NotOnEngine(f"The engine answered: {text}", reason=Reason.NOT_FOUND)
    if status == 409 or (status == 400 and "same name as its current name" in text):
        return EngineConflict(f"The engine answered: {text}")
    if "no space left" in text:
        return EngineError(f"The engine's disk is full: {text}", reason=Reason.ENGINE_FULL)
    return EngineError(f"The engine refused ({status}): {text}")
