"""The stand-in under the name and with the command line of the real agent server."""

import argparse
import runpy
import sys
from pathlib import Path

arguments = argparse.ArgumentParser()
arguments.add_argument("--host")
arguments.add_argument("--port")
given = arguments.parse_args()
sys.argv = ["nested_server", given.port, given.host]
runpy.run_path(str(Path(__file__).parents[4] / "standin" / "nested_server.py"), run_name="__main__")
