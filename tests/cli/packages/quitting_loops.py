"""A package that thinks it is a program."""

import sys
import warnings

warnings.warn("quitting_loops is old", DeprecationWarning, stacklevel=1)
print("Welcome!")  # noqa: T201 - as such packages do
sys.exit(3)
