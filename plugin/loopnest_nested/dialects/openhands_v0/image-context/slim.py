"""Take out of the builder's virtual environment what one loop never needs."""

import compileall
import py_compile
import shutil
import sysconfig
from pathlib import Path

_PACKAGES = Path(sysconfig.get_path("purelib"))
_UNUSED = ("litellm/proxy/_experimental/out", "playwright/driver", "speech_recognition/pocketsphinx-data")
_KUBERNETES = ("client/__init__", "client/models", "client/rest", "client/exceptions", "config")
_STAND_IN = '''"""Stands in for the Kubernetes client, which nothing in this image uses, though something imports it."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {})
'''


def stand_in_for_kubernetes(package: Path) -> None:
    """Let the server import its Kubernetes runtime, whichever it is told to use, without 75 MB of generated classes."""
    for module in _KUBERNETES:
        file = package / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_STAND_IN)
    (package / "__init__.py").touch()
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # as for all others
    compileall.compile_dir(package, quiet=1, invalidation_mode=mode)


for unused in _UNUSED:
    shutil.rmtree(_PACKAGES / unused, ignore_errors=True)
if not (_PACKAGES / "kubernetes").exists():
    stand_in_for_kubernetes(_PACKAGES / "kubernetes")
