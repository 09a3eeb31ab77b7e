"""The `loopnest` command."""
