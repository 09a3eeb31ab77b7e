"""A package that thinks it is a program."""

import sys
import warnings

warnings.warn("quitting_loops is old", DeprecationWarning, stacklevel=1)
print("Welcome!")
sys.exit(3)
