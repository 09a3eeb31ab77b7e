"""Resolves start requests by the stores of the agent server installed here, and prints what came of it as JSON.

Prints too what the imitations of this release and of the newest have that this one lacks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent_server_comparison import differences
from starlette.testclient import TestClient

from loopnest_openhands.agent_server import launch, upstream

LLM = {"model": "openai/scripted", "api_key": "sk-stored", "usage_id": "agent"}
PROFILE = {"agent_kind": "openhands", "llm_profile_ref": "scripted", "tools": [], "secret_refs": ["ALLOWED"]}
MEMORY = {"agent_settings_diff": {"agent_context": {"load_memory": True}}}


def stored(http: TestClient) -> str:
    """Store a language model and an agent's profile, and return the profile's id."""
    for path, body in (("/api/profiles/scripted", {"llm": LLM}), ("/api/agent-profiles/worker", PROFILE)):
        http.post(path, json=body).raise_for_status()
    profiles = http.get("/api/agent-profiles").raise_for_status().json()["profiles"]
    return next(str(entry["id"]) for entry in profiles if entry["name"] == "worker")


def resolved(stock: upstream.Stock, profile_id: str) -> dict[str, Any]:
    secrets = {name: {"kind": "StaticSecret", "value": f"value of {name}"} for name in ("ALLOWED", "OTHER")}
    body = {"agent_profile_id": profile_id, "secrets": secrets, "workspace": {"working_dir": "/workspace/project"}}
    start = asyncio.run(launch.resolve(body, stock))
    return {"body": start.body, "variables": dict(start.variables)}


def main(settings: Path) -> None:
    stock = upstream.load()
    http = TestClient(stock.app)
    profile_id = stored(http)
    told = {"profile": profile_id, "variables": dict(stock.variables), "plain": resolved(stock, profile_id)}
    http.patch("/api/settings", json=MEMORY).raise_for_status()
    told["remembering"] = resolved(stock, profile_id)
    settings.unlink()
    settings.mkdir()
    told["unreadable"] = resolved(stock, profile_id)
    told["lacking"] = differences(version("openhands-agent-server"))
    told["lacking_of_the_newest"] = differences(upstream.TESTED[-1])
    print(json.dumps(told))


main(Path(sys.argv[1]))
