"""The request to stop a container, noted inside the container, where every replica can read it.

``docker kill`` and a close of a server that ignores SIGTERM both leave exit code 137, and a server may end with any
code when it is asked to. A stop differs from a failure only in that it was requested. The engine has no place for such
a note: labels can't be changed, and events are soon forgotten. The state directory may be lost, and each machine has
its own. So the note is an empty file in the container, which exists as long as the container does. It is named after
the moment at which the run began, so that it does not apply to a later run. Its directory belongs to root: an agent
without root can't make or remove it, and one with root can only disguise the failure of its own loop.

A stop from outside, such as ``docker stop``, is not noted. Where the server then has to be killed, it counts as killed.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any, Final

from docker.errors import create_api_error_from_http_exception
from requests import HTTPError

import docker

_DIRECTORY: Final = "run/loopnest-stops"


def note(client: docker.APIClient, container_id: str, state: dict[str, Any]) -> None:
    """Note that a stop of the container's current or last run was requested.

    Args:
        state: the container's, as the engine's ``inspect`` gives it.

    Raises:
        APIError: the engine refused.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        directory = tarfile.TarInfo(_DIRECTORY)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        tar.addfile(tarfile.TarInfo(_file(state)))
    client.put_archive(container_id, "/", archive.getvalue())


def is_noted(client: docker.APIClient, container_id: str, state: dict[str, Any]) -> bool:
    """Whether a stop of the container's current or last run was requested.

    The SDK's ``get_archive`` would have the engine pack the file, which takes ten times as long as this.

    Raises:
        APIError: the engine refused. A container that is gone has no note.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container_id}/archive"
    with client.head(url, params={"path": f"/{_file(state)}"}, timeout=client.timeout) as response:
        if response.status_code == 404:
            return False
        try:
            response.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)
    return True


def _file(state: dict[str, Any]) -> str:
    return f"{_DIRECTORY}/{state['StartedAt']}"
