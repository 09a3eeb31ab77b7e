"""A package that can't be imported here."""

raise ImportError("libfoo.so: cannot open shared object file")
