"""Answers for any number of nested servers that are not there, as fast as Python can: ``responder.py PORT``.

What is measured against it is what the caller costs, not the server.
"""

from __future__ import annotations

import asyncio
import json
import sys

STATUS = {"id": "any", "execution_status": "idle", "status": "RUNNING", "runtime_status": "STATUS$READY"}


def answer(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


ANSWERS = {b"GET": answer(STATUS), b"POS": answer({"success": True})}


class Connection(asyncio.Protocol):
    """Reads whole requests, and answers each by its method alone."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._transport.write(ANSWERS[self._buffer[:3]])  # type: ignore[attr-defined]
            self._buffer = self._buffer[end + 4 + length :]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", int(sys.argv[1]), backlog=256)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
