"""The strategy without a container: every loop in a child process, for laptops without Docker."""
