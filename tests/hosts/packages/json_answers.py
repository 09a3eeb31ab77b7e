"""What the servers that stand in for others on these tests' stage answer with."""

from __future__ import annotations

import contextlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class JsonAnswers(BaseHTTPRequestHandler):
    """Answers with JSON, and logs nothing."""

    def answer(self, body: dict[str, Any]) -> None:
        """Send the whole response."""
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # who asked had no patience
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass
