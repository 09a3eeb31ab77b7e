"""Speaks as much of the agent server's API as the dialect uses, and misbehaves on demand.

It proves nothing about the real server, which has tests of its own; it stands in where the engine is what is tested,
or where hundreds are needed. ``STANDIN`` says how it behaves: ``normal``, ``exit`` (before it is ready), ``never``
(ready), ``hog`` (memory, before it is ready), ``refuse`` (conversations), ``slow`` (two seconds to become ready),
``deaf`` (to SIGTERM), ``upset`` (500 for conversations that it hasn't), ``hesitant`` (four seconds to create a
conversation), ``mute`` (no answer to the creation of a conversation, which succeeds).
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = os.environ.get("STANDIN", "normal")
KEY = os.environ.get("OH_SESSION_API_KEYS_0", "")
STORE = pathlib.Path(os.environ.get("OH_CONVERSATIONS_PATH", "/workspace/conversations"))
CONVERSATION = re.compile(r"^/api/conversations/([0-9a-f-]+)(/.*)?$")


def event(body: dict) -> str:
    return json.dumps({"id": str(uuid.uuid4()), **body}) + "\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path in {"/alive", "/health", "/ready"}:
            return self.answer(503 if MODE == "never" else 200, {"status": "ready"})
        if self.path.startswith("/server_info"):
            return self.answer(200, {"version": "1.58.0", "usable_tools": []})
        if self.refused():
            return None
        found = CONVERSATION.match(self.path.split("?")[0])
        if not found or not self.file(found[1]).exists():
            return self.answer(500 if MODE == "upset" else 404, {"detail": "Not found"})
        events = [json.loads(line) for line in self.file(found[1]).read_text().splitlines()]
        if (found[2] or "") == "/events/search":
            return self.answer(200, {"items": events, "next_page_id": None})
        return self.answer(200, {"id": found[1], "execution_status": "idle"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.refused():
            return None
        if self.path == "/api/conversations":
            return self.create(body)
        found = CONVERSATION.match(self.path)
        if not found or not self.file(found[1]).exists():
            return self.answer(404, {"detail": "Not found"})
        if found[2] == "/events":
            with self.file(found[1]).open("a") as file:
                file.write(event(body))
        return self.answer(200, {"success": True})

    def create(self, body: dict) -> None:
        if MODE == "refuse":
            return self.answer(422, {"detail": "no agent"})
        file = self.file(body["conversation_id"])
        existed = file.exists()
        if MODE == "hesitant":
            time.sleep(4)
        if not existed:
            file.parent.mkdir(parents=True, exist_ok=True)
            first = body.get("initial_message")
            file.write_text(event(first) if first else "")
            if MODE == "mute":
                time.sleep(600)
        return self.answer(200 if existed else 201, {"id": body["conversation_id"], "execution_status": "idle"})

    def file(self, conversation_id: str) -> pathlib.Path:
        return STORE / f"{conversation_id}.jsonl"

    def refused(self) -> bool:
        if self.headers.get("X-Session-API-Key") == KEY:
            return False
        self.answer(401, {"detail": "Unauthorized"})
        return True

    def answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    print("standin: booting in mode", MODE, flush=True)
    if MODE == "exit":
        print("standin: refusing to boot, session key", KEY, flush=True)
        sys.exit(3)
    if MODE == "hog":
        hoard = []
        while True:
            hoard.append(bytearray(16 * 1024 * 1024))
    if MODE == "slow":
        time.sleep(2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if MODE == "deaf" else lambda *_: sys.exit(0))
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    address = sys.argv[2] if len(sys.argv) > 2 else "0.0.0.0"
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((address, port), Handler).serve_forever()


main()
