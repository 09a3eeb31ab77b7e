"""What a container's directories hold, read from the engine: so it needs no answer of the nested server."""

from __future__ import annotations

import io
import itertools
import tarfile
from typing import Final

import requests
from docker.errors import create_api_error_from_http_exception

import docker
from loopnest_docker.engine import Engine, NotOnEngine

#: Bytes of the engine's archive in which the directory's own header and that of its first entry are; long names, and
#: extended attributes, take some blocks of 512 bytes more.
_ENOUGH: Final = 64 * 1024


async def has_entries(engine: Engine, container_id: str, directory: str) -> bool:
    """Whether ``directory`` of the container has anything in it; works for stopped containers too.

    Raises:
        EngineError: the engine could not be asked. A directory or container that is missing has no entries.
    """
    try:
        return await engine.run(lambda client: _first_entry(client, container_id, directory) is not None)
    except NotOnEngine:
        return False


def _first_entry(client: docker.APIClient, container_id: str, directory: str) -> tarfile.TarInfo | None:
    """Read the beginning of the archive only: a workspace may have gigabytes.

    Not by the SDK's ``get_archive``, which keeps the connection open until the whole archive was read.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container_id}/archive"
    with client.get(url, params={"path": directory}, stream=True, timeout=client.timeout) as response:
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
        beginning = b"".join(itertools.islice(response.iter_content(4096), _ENOUGH // 4096))
    with tarfile.open(fileobj=io.BytesIO(beginning), mode="r|") as archive:
        archive.next()  # the directory itself
        try:
            return archive.next()
        except tarfile.ReadError:
            return tarfile.TarInfo("unreadable")  # there is more than was read
