"""Take out of the builder's virtual environment what one loop never needs, and put off what it rarely needs."""

import compileall
import py_compile
import shutil
import sysconfig
from pathlib import Path

PACKAGES = Path(sysconfig.get_path("purelib"))
UNUSED = ("litellm/proxy/_experimental/out", "playwright/driver", "speech_recognition/pocketsphinx-data")

# The server imports its Kubernetes runtime whichever runtime it is told to use, and with it 75 MB of generated classes.
STAND_IN = '''"""Stands in for the Kubernetes client, which nothing in this image uses, though something imports it."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {})
'''

# Only for looking into spreadsheets, yet imported at every start.
LAZY = '''"""Import pandas when it is used for the first time."""

import importlib.abc
import importlib.util
import sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "pandas":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())
'''


def main() -> None:
    for path in UNUSED:
        shutil.rmtree(PACKAGES / path, ignore_errors=True)
    if not (PACKAGES / "kubernetes").exists():
        for module in ("client/__init__", "client/models", "client/rest", "client/exceptions", "config"):
            file = PACKAGES / "kubernetes" / f"{module}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(STAND_IN)
        (PACKAGES / "kubernetes" / "__init__.py").touch()
    (PACKAGES / "loopnest_lazy.py").write_text(LAZY)
    (PACKAGES / "loopnest_lazy.pth").write_text("import loopnest_lazy\n")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # as for all others
    compileall.compile_dir(PACKAGES / "kubernetes", quiet=1, invalidation_mode=mode)
    compileall.compile_file(PACKAGES / "loopnest_lazy.py", quiet=1, invalidation_mode=mode)


main()
