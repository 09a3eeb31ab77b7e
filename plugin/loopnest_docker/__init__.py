"""The Docker-nested strategy: every agent loop in a container of its own, as a nested server driven over HTTP."""
