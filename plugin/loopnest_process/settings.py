"""The ``[loopnest.process]`` table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr

from loopnest.validation import LocalPath, VariableName
from loopnest_nested.client import MAX_ANSWER

#: Of the host's variables, those that programs need and that are no secrets of the host.
INHERITED: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "loopnest"


class ProcessSettings(BaseModel):
    """Settings of the strategy without a container. Times are seconds.

    Attributes:
        dialect: the kind of nested server.
        python: an interpreter that has the nested server installed (the user's site-packages do not count); None means
            the host's own where that has it, else one in a virtual environment below ``cache_dir``, made at the first
            start (needs ``uv``).
        version: of the nested server in that virtual environment; None means the one the dialect was tested with.
        cache_dir: where that virtual environment is kept; hosts may share it.
        workspaces: the directory of the agents' working directories; None means in the state directory.
        environment: variables for every nested server.
        secret_environment: the same, for values that appear nowhere else.
        inherit: names of the host's own variables that nested servers get too.
        start_timeout: until the nested server has the conversation.
        stop_timeout: for the agent to stop by itself, then again for the process; after that it is killed.
        max_answer: bytes of an answer of a nested server that is not streamed; a longer one is an error.
        probe_timeout: for one nested server to say what it does, in listings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    dialect: str = "agent-server"
    python: LocalPath | None = None
    version: str | None = None
    cache_dir: LocalPath = Field(default_factory=_default_cache_dir)
    workspaces: LocalPath | None = None
    environment: dict[VariableName, str] = {}
    secret_environment: dict[VariableName, SecretStr] = {}
    inherit: tuple[str, ...] = INHERITED
    start_timeout: float = Field(default=120, gt=0)
    stop_timeout: float = Field(default=10, gt=0)
    probe_timeout: float = Field(default=2, gt=0)
    max_answer: Annotated[ByteSize, Field(ge=1024 * 1024)] = ByteSize(MAX_ANSWER)
