"""The Python interpreter that has the nested server: one that was named, the host's own, or one made for it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from loopnest import LoopFailed, Phase, Reason
from loopnest_nested.dialects import get_dialect
from loopnest_process.locks import FileLocks
from loopnest_process.settings import ProcessSettings

#: Without the user's site-packages, where agents install what they need: no other release of a package, and no ``.pth``
#: file or ``usercustomize`` of theirs, is for the nested server. By a flag and not a variable, which the agents' own
#: programs would inherit. ``-I`` would ignore the variables that operators set, too.
ISOLATED: Final = ("-s",)
_DONE: Final = ".loopnest-complete"
Report = Callable[[Phase, str], None]


class ServerPython:
    """Finds the interpreter once, and makes one where there is none."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._program = get_dialect(settings.dialect).program
        self._module, self._distributions = self._program.module, self._program.distributions
        self._version = settings.version or self._program.version
        self._made = settings.cache_dir / f"{settings.dialect}-{self._version}"
        self._found: Path | None = None
        self._finding = asyncio.Lock()

    async def ensure(self, report: Report) -> Path:
        """Return the interpreter; ``report`` is called with a phase and a message while one is made.

        Raises:
            LoopFailed: there is none, and none can be made (``server-missing``); the message says what to do.
        """
        async with self._finding:
            if self._found is None:
                self._found = await self.find() or await self._make(report)
            return self._found

    async def find(self) -> Path | None:
        """Return the interpreter if it is there already.

        Raises:
            LoopFailed: the one that the settings name lacks the nested server.
        """
        if named := self._settings.python:
            if self._module and not await self._has_server(named):
                raise self._missing(f"The interpreter {named} does not have the module {self._module!r}.")
            return named
        if not self._module:
            raise self._missing(f"Which interpreter has a server of the dialect {self._settings.dialect!r}?")
        if await self._has_server(Path(sys.executable)):
            return Path(sys.executable)
        return self._python if (self._made / _DONE).exists() else None

    def uv(self) -> Sequence[str] | None:
        """The command that makes virtual environments; None where there is none."""
        if importlib.util.find_spec("uv"):
            return (sys.executable, "-m", "uv")
        found = shutil.which("uv")
        return (found,) if found else None

    def missing_uv(self) -> LoopFailed:
        """What to raise where there is no interpreter, and no way to make one."""
        return self._missing("No interpreter has the nested server, and there is no 'uv' to make one with.")

    @property
    def _oldest(self) -> str:
        return ".".join(map(str, self._program.python))

    @property
    def _python(self) -> Path:
        return self._made / "bin" / "python"

    async def _has_server(self, python: Path) -> bool:
        probe = f"import importlib.util as u, sys; sys.exit(u.find_spec({self._module!r}) is None)"
        try:
            return (await _run(str(python), *ISOLATED, "-c", probe, environment=self._settings.environment))[0] == 0
        except OSError:
            return False

    async def _make(self, report: Report) -> Path:
        if not self._distributions:
            raise self._missing(f"No interpreter has the module {self._module!r}.")
        uv = self.uv()
        if uv is None:
            raise self.missing_uv()
        async with FileLocks(self._settings.cache_dir).hold(self._made.name):
            if not (self._made / _DONE).exists():
                report(Phase.INSTALLING_SERVER, f"Installing {self._distributions[0]} {self._version}, once.")
                await self._install(uv)
        return self._python

    async def _install(self, uv: Sequence[str]) -> None:
        fits = sys.version_info >= self._program.python
        base = sys.executable if fits else f">={self._oldest}"
        wanted = [f"{name}=={self._version}" for name in self._distributions]
        for arguments in (
            ("venv", "--clear", "--python", base, str(self._made)),
            ("pip", "install", "--compile-bytecode", "--python", str(self._python), *wanted),
        ):
            code, output = await _run(*uv, *arguments)
            if code:
                raise self._missing(f"'uv {arguments[0]}' failed.", output.splitlines()[-20:])
        (self._made / _DONE).touch()

    def _missing(self, problem: str, log_tail: Sequence[str] = ()) -> LoopFailed:
        what = self._distributions[0] if self._distributions else "it"
        make = "; or install 'uv', which does that" if self._distributions else ""
        return LoopFailed(
            f"{problem} Install {what} into an environment (of Python {self._oldest} or newer), and set 'python' in "
            f"[loopnest.process] to its interpreter{make}.",
            reason=Reason.SERVER_MISSING,
            log_tail=log_tail,
        )


async def _run(*command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command, and end it where the caller goes away; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")
