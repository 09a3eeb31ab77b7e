"""The file that brings secret variables into a container.

Secrets of the nested server are no part of the container's configuration, which every user of the engine can read. They
are copied into the container before each start as a file, which the
entry point reads and removes.

The file also changes the working directory, as that reaches containers of earlier releases at their next start, too.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

_DIRECTORY: Final = "run/loopnest"
_FILE: Final = "env"
#: The nested server runs where its agent can't write. It would import modules from its working directory, and read
#: ``.env``, ``config.toml`` and others there; many projects have files of these names.
_WORKING_DIRECTORY: Final = "/"
_SCRIPT: Final = (
    f'f=/{_DIRECTORY}/{_FILE}; [ -r "$f" ] || '
    '{ echo "loopnest: started without its keys; start it through loopnest" >&2; exit 78; }; '
    '. "$f"; rm -f "$f"; exec "$@"'
)
#: Reads the secret variables, and makes sure that the file is gone before the nested server runs.
ENTRY_POINT: Final = ["/bin/sh", "-c", _SCRIPT, "loopnest"]


def secret_archive(variables: Mapping[str, SecretStr]) -> bytes:
    """The file of secret variables, and of where the server runs, as a tar archive for the container's root.

    Any user may read and remove it, as the image's user is not known here; it is gone before anything else runs.
    """
    lines = [f"export {name}={shlex.quote(value.get_secret_value())}\n" for name, value in variables.items()]
    content = "".join([*lines, f"cd {_WORKING_DIRECTORY}\n"]).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        directory = tarfile.TarInfo(_DIRECTORY)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(directory)
        file = tarfile.TarInfo(f"{_DIRECTORY}/{_FILE}")
        file.size, file.mode = len(content), 0o444
        tar.addfile(file, io.BytesIO(content))
    return archive.getvalue()
