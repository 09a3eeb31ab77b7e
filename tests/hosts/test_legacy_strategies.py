"""One line decides where the legacy host's loops run: here in its own process, by its own manager."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from .legacy_process import Listener, printed, said, state
from .legacy_stage import BOOT, Stage, override

STANDALONE = "openhands.server.conversation_manager.standalone_conversation_manager.StandaloneConversationManager"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "line",
    [
        {"LOOPNEST_STRATEGY": "openhands-standalone"},
        {"LOOPNEST_STRATEGY": "openhands-class", "LOOPNEST_OPENHANDS_CLASS__MANAGER_CLASS": STANDALONE},
    ],
    ids=["openhands-standalone", "openhands-class"],
)
async def test_the_hosts_own_managers_are_strategies_with_the_same_overrides_in_front(
    on_stage: Stage, tmp_path: Path, line: dict[str, str]
) -> None:
    place = override(tmp_path / "site")
    overridden = on_stage.host(tmp_path, PYTHONPATH=place, LOOPNEST_OVERRIDES='["redact"]', RUNTIME="cli", **line)
    with overridden.running() as host:
        async with httpx.AsyncClient(base_url=host.url, timeout=BOOT) as http:
            (await http.post("/api/settings", json=on_stage.settings)).raise_for_status()
            # The host's `cli` runtime loses the output of a command that ends before it looks.
            first = {"initial_user_msg": "run: sleep 0.5; echo here-$((1+1))"}
            created = (await http.post("/api/conversations", json=first)).json()
            listener = await Listener.connect(host.url, created["conversation_id"])
            await listener.until(printed("here-2"), BOOT)
            await listener.until(state("finished"))
            await listener.say(f"run: sleep 0.5; echo there-$((1+1)) sk-{'x' * 9}")
            assert "sk-[redacted]" in str((await listener.until(printed("there-2")))["content"])
            await listener.until(said("sk-[redacted]"))
            path = f"/api/conversations/{created['conversation_id']}"
            assert (await http.get(path)).json()["status"] == "RUNNING"
            assert (await http.post(f"{path}/stop")).json()["message"] == "Conversation stopped successfully"
            assert (await http.get(path)).json()["status"] == "STOPPED"
            await listener.leave()
