"""What is measured: each a process of its own, in its own environment, driven over `bench.programs.line`."""
