"""A nested server that stores the messages it gets: ``python -m echo_server HOST PORT``."""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, DATA = os.environ["ECHO_KEY"], Path(os.environ["ECHO_DATA"]) / "conversations"


class Handler(BaseHTTPRequestHandler):
    """``PUT /ID`` creates a conversation, ``POST /ID`` adds a message, ``GET /ID`` lists them, ``GET /`` is health."""

    def do_GET(self) -> None:
        file = self._file()
        if file is None:
            self._answer(200, {"ready": True})
        elif file.exists():
            self._answer(200, json.loads(file.read_text()))
        else:
            self._answer(404, {"detail": "no such conversation"})

    def do_PUT(self) -> None:
        file = self._file()
        DATA.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps([]))
        self._answer(200, [])

    def do_POST(self) -> None:
        file = self._file()
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        file.write_text(json.dumps([*json.loads(file.read_text()), message]))
        self._answer(200, {"echo": message})

    def parse_request(self) -> bool:
        """Refuse requests without the session key."""
        if not super().parse_request():
            return False
        if self.headers["X-Session-API-Key"] == KEY:
            return True
        self._answer(401, {"detail": "wrong session key"})
        return False

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _file(self) -> Path | None:
        return DATA / f"{self.path[1:]}.json" if self.path != "/" else None

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
