"""An asynchronous client of the engine's API, for answers that go on for ever.

The SDK waits for these on a thread, which can't be ended at every moment: not while it connects, nor before the engine
has begun to answer. A task can be cancelled at any.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

import docker.utils
import httpx
from docker.tls import TLSConfig

from loopnest import EngineError

_UNIX: Final = "http+unix://"
#: Stands in for httpx's default, which reads all certificates of the system at once, and is not used.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def new_stream_client(options: dict[str, Any], timeout: float) -> httpx.AsyncClient:
    """Return a client without a limit for the gaps within an answer.

    Args:
        options: where the engine is, as the SDK's `docker.utils.kwargs_from_env` gives it.
        timeout: seconds to connect, and to send a request.

    Raises:
        EngineError: the engine is reached by other means than a socket or TCP.
    """
    tls: TLSConfig | None = options.get("tls")
    url = docker.utils.parse_host(options.get("base_url"), tls=tls is not None)
    limits = httpx.Timeout(timeout, read=None)
    if url.startswith(_UNIX):
        transport = httpx.AsyncHTTPTransport(uds=url.removeprefix(_UNIX), verify=_NO_TLS)
        return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=limits, trust_env=False)
    if url.startswith("http://"):
        return httpx.AsyncClient(base_url=url, verify=_NO_TLS, timeout=limits, trust_env=False)
    if url.startswith("https://"):
        return httpx.AsyncClient(base_url=url, verify=_context(tls), timeout=limits, trust_env=False)
    raise EngineError(f"Events can't be followed over {url.partition(':')[0]}.")


def _context(tls: TLSConfig | None) -> ssl.SSLContext:
    """The SDK's settings as the standard library takes them."""
    context = ssl.create_default_context(cafile=tls.ca_cert if tls and tls.verify else None)
    if tls and not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls and tls.cert:
        context.load_cert_chain(*tls.cert)
    return context
