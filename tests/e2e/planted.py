"""Files that an agent leaves where Python and the servers look for their own, and what shows that one was taken."""

from __future__ import annotations

import base64

#: Run in the agent's terminal: where it works, and in its home. Each module notes in ``~/imported`` which program
#: imported it, and then fails, as a module does that only has the name of the one that was wanted.
_PROGRAM = r"""
import json, pathlib, sys

here, home = pathlib.Path.cwd(), pathlib.Path.home()
module = (
    "import os, sys\n"
    "with open(os.path.expanduser('~/imported'), 'a') as file:\n"
    "    print(__name__, *sys.orig_argv, file=file)\n"
)
fails = module + "raise RuntimeError('the module of an agent')\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))


write(home / "imported", "")
for package in ("email", "openhands", "openhands/agent_server", "openhands/server", "litellm", "json"):
    write(here / package / "__init__.py", fails)
for name in ("typing", "uvicorn", "sitecustomize", "usercustomize", "runpy", "site"):
    write(here / f"{name}.py", fails)
for minor in range(10, 16):
    own = home / f".local/lib/python3.{minor}/site-packages"
    write(own / "usercustomize.py", module)
    write(own / "litellm.py", fails)
    write(own / "agent.pth", f"import sys; exec({module!r})\n")
write(here / ".env", "FASTMCP_LOG_LEVEL=nonsense\nOH_ENABLE_VSCODE=nonsense\nLMNR_LOG_LEVEL=\xff\n")
write(here / "config.toml", "[sandbox]\nno_such_field = 1\n[core\n")
for name in ("openhands_agent_server_config.json", "workspace/openhands_agent_server_config.json"):
    write(here / name, "{")
for directory in (pathlib.Path(path) for path in sys.argv[1:]):
    write(directory / "agent-server.json", "{")
write(here / "tool/helper.py", "print('the helper beside it')\n")
write(here / "tool/main.py", "import helper\n")
print("planted", "everything")
"""
#: What the agent then looks at: that none was imported, but by its own Python kernel, which works where it does;
#: that no variable changes what Python does for its own programs; and that those import what lies beside them.
LOOK = (
    "grep -v ipykernel_launcher ~/imported; env | grep -E '^PYTHON(SAFEPATH|NOUSERSITE)'; "
    "cd tool && python3 main.py && echo looked"
)
SEEN = ["the helper beside it", "looked"]


def command(*data: str) -> str:
    """The command that plants them all; ``data`` are directories of the nested server's that the agent may write."""
    program = base64.b64encode(_PROGRAM.encode()).decode()
    return " ".join((f"echo {program} | base64 -d | python3 -I -", *data))
