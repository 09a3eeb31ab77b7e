"""What a container's directories hold, read from the engine: so it needs no answer of the nested server."""

from __future__ import annotations

import contextlib
import io
import itertools
import tarfile
from typing import Any, Final

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
    """Read the beginning of the archive only: a workspace may have gigabytes."""
    stream: Any
    stream, _ = client.get_archive(container_id, directory, chunk_size=4096)
    with contextlib.closing(stream):
        beginning = b"".join(itertools.islice(stream, _ENOUGH // 4096))
    with tarfile.open(fileobj=io.BytesIO(beginning), mode="r|") as archive:
        archive.next()  # the directory itself
        try:
            return archive.next()
        except tarfile.ReadError:
            return tarfile.TarInfo("unreadable")  # there is more than was read
