"""A model that answers from a script: an OpenAI-compatible endpoint for the demo and the tests, without intelligence.

It keeps no state. Which turn of the script is next follows from the conversation that each request carries (how often
the assistant has spoken since the user last did), so one endpoint serves any number of conversations, and a nested
server that was stopped and started again goes on where it was. Agent servers send tools only to models that they know
to understand them: call it `openai/gpt-4o` for the legacy server; the current one takes any name.
"""

import json
import re
import socketserver
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Text:
    """A turn in which the model only speaks, which is where agents stop and wait for the user."""

    content: str


@dataclass(frozen=True)
class Call:
    """A turn in which the model calls one tool."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a request asks: the user's latest words, how many turns were taken since, and the tools on offer.

    Attributes:
        results: what the tools returned since the user's latest words.
    """

    message: str
    turn: int
    tools: frozenset[str]
    results: tuple[str, ...] = ()


Turn = Text | Call
Script = Sequence[Turn] | Callable[[Asked], Sequence[Turn]]
"""The turns that follow a user's message: the same ones every time, or chosen by what was asked."""


@dataclass(frozen=True)
class Seen:
    """One request as it came in. `api_key` is the bearer token, whatever it was: none is refused."""

    body: dict[str, Any]
    api_key: str
    asked: Asked


@dataclass
class ScriptedModel:
    """A running endpoint. `url` ends in /v1, as clients want their base URL; `requests` grows as they come in."""

    url: str
    requests: list[Seen] = field(default_factory=list)


def demo(asked: Asked) -> Sequence[Turn]:
    """`run: <command>` on a line of the user's message runs it in the agent's terminal; all else is acknowledged."""
    command = re.search(r"^\s*run:\s*(.+)$", asked.message, re.MULTILINE)
    # The current server's tool, the legacy one's, or none at all, as when a title is asked for.
    terminal = next((name for name in ("terminal", "execute_bash") if name in asked.tools), None)
    if command and terminal:
        return [Call(terminal, {"command": command[1].strip()}), _ending(f"I ran: {command[1].strip()}", asked)]
    return [_ending(f"You said: {asked.message.strip()}", asked)]


def _ending(text: str, asked: Asked) -> Turn:
    return Call("finish", {"message": text}) if "finish" in asked.tools else Text(text)


def understand(body: Mapping[str, Any]) -> Asked:
    """Read a request. Servers add user messages of their own to the user's, so all of them in a row count as one."""
    messages = list(body.get("messages") or [])
    since: list[Mapping[str, Any]] = []
    while messages and messages[-1].get("role") != "user":
        since.insert(0, messages.pop())
    words: list[str] = []
    while messages and messages[-1].get("role") == "user":
        words.insert(0, _text(messages.pop().get("content")))
    tools = (tool.get("function", {}).get("name", "") for tool in body.get("tools") or [])
    turn = sum(message.get("role") == "assistant" for message in since)
    results = tuple(_text(message.get("content")) for message in since if message.get("role") == "tool")
    return Asked("\n".join(words), turn, frozenset(tools), results)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
    return str(content or "")


def next_turn(script: Script, asked: Asked) -> Turn:
    """Return the script's turn for what was asked. A script that is over says so, and that ends the agent's run."""
    turns = script(asked) if callable(script) else script
    return turns[asked.turn] if asked.turn < len(turns) else _ending("The script is over.", asked)


def _spoken(turn: Turn) -> tuple[dict[str, Any], str]:
    """Render the assistant's message, and the reason it ends with. The index is for streams, and harmless elsewhere."""
    if isinstance(turn, Text):
        return {"role": "assistant", "content": turn.content}, "stop"
    function = {"name": turn.name, "arguments": json.dumps(dict(turn.arguments))}
    call = {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"


def _completion(kind: str, body: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """Render a whole completion, or one chunk of a streamed one. Clients want usage numbers, but not right ones."""
    completion = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model") or "scripted",
        "choices": [{"index": 0, **choice}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return json.dumps(completion)


def _reply(body: Mapping[str, Any], turn: Turn) -> tuple[str, str]:
    """Render what goes over the wire, and its content type."""
    message, reason = _spoken(turn)
    if not body.get("stream"):
        return _completion("chat.completion", body, {"message": message, "finish_reason": reason}), "application/json"
    chunk = _completion("chat.completion.chunk", body, {"delta": message, "finish_reason": None})
    done = _completion("chat.completion.chunk", body, {"delta": {}, "finish_reason": reason})
    return f"data: {chunk}\n\ndata: {done}\n\ndata: [DONE]\n\n", "text/event-stream"


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        if self.path.rstrip("/") != "/v1/models":
            return self._refuse(404, f"no such path: {self.path}")
        model = {"id": "scripted", "object": "model"}
        return self._answer(200, json.dumps({"object": "list", "data": [model]}))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.rstrip("/") != "/v1/chat/completions":
            return self._refuse(404, f"no such path: {self.path}")
        try:
            body = json.loads(raw)
            seen = Seen(body, self.headers.get("Authorization", "").removeprefix("Bearer "), understand(body))
        except (ValueError, AttributeError, TypeError) as error:
            return self._refuse(400, f"not a chat completion request: {error}")
        self.server.model.requests.append(seen)
        return self._answer(200, *_reply(body, next_turn(self.server.script, seen.asked)))

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, json.dumps({"error": {"message": message, "type": "invalid_request_error"}}))

    def _answer(self, status: int, text: str, kind: str = "application/json") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
        """Say nothing: the demo's terminal belongs to the demo."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # a hundred agents may ask at once; the default refuses the sixth
    model: ScriptedModel
    script: Script

    def server_bind(self) -> None:
        # The base class looks its own name up in the DNS, which takes seconds where there is none.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]


@contextmanager
def serve(host: str, port: int = 0, script: Script = demo) -> Iterator[ScriptedModel]:
    """Serve `script` until the block ends. `host` is an address of this machine that the agents reach: for loops in
    containers their bridge's gateway, which keeps the endpoint off every other network. Port 0 takes a free one.
    """
    with _Server((host, port), _Handler) as server:
        server.model = ScriptedModel(f"http://{host}:{server.server_port}/v1")
        server.script = script
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.model
        finally:
            server.shutdown()
            thread.join()
