"""Run every check on upstream's nested manager and on ours, by the host's own interpreter.

Usage: legacy_checks.py DIRECTORY [BEGINNING OF A CHECK'S NAME]. Prints ``{check: {"upstream": bool, "ours": bool}}``,
True where it is right; a check that upstream has no counterpart of has ``ours`` only.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
import tempfile
import traceback

from legacy_bench import CHECKS, Check, run

for module in ("legacy_defects", "legacy_engine_defects", "legacy_beyond"):
    importlib.import_module(module)


def ours_is_right(checked: Check, directory: str) -> bool:
    """An exception is a wrong answer of ours, but a broken test where upstream's own wrong answer is expected."""
    try:
        return asyncio.run(run(checked, tempfile.mkdtemp(dir=directory), ours=True))
    except Exception:  # noqa: BLE001 - of whatever kind
        traceback.print_exc()
        return False


def main(directory: str, only: str = "") -> None:
    logging.disable()
    results: dict[str, dict[str, bool]] = {}
    for name, (upstream, ours) in CHECKS.items():
        if only and not name.startswith(only):
            continue
        print(name, file=sys.stderr)
        results[name] = {"ours": ours_is_right(ours, directory)}
        if upstream:
            try:
                results[name]["upstream"] = asyncio.run(run(upstream, tempfile.mkdtemp(dir=directory), ours=False))
            except BaseException:
                traceback.print_exc()  # the host has a hook for uncaught exceptions that logs them
                raise
    print(json.dumps(results))


main(*sys.argv[1:])
