"""From a session key to its sandbox, without the app server."""

from __future__ import annotations

from pydantic import SecretStr

from loopnest import Closed, Loop, LoopManager, LoopnestSettings, LoopStatus, StartLoop, hookimpl
from loopnest_openhands.app_server.session_keys import SessionKeys


class Many:
    """A strategy with a thousand loops, which counts how often they are listed."""

    def __init__(self) -> None:
        self.listings = 0
        self.loops = {f"c{number}": self.loop(number, "key") for number in range(1000)}

    def loop(self, number: int, key: str) -> Loop:
        named = {"conversation_id": f"c{number}", "session_key": SecretStr(f"{key}-{number}")}
        return Loop(status=LoopStatus.RUNNING, url="http://127.0.0.1:9", **named)

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        raise NotImplementedError

    @hookimpl
    def close_session(self, conversation_id: str) -> Closed:
        raise NotImplementedError

    @hookimpl
    def list_loops(self, query) -> list[Loop]:
        self.listings += 1
        return [loop for loop in self.loops.values() if query.matches(loop)]

    @hookimpl
    def send_event(self) -> None:
        raise NotImplementedError


async def test_a_key_is_found_by_its_digest_however_many_sandboxes_there_are(tmp_path):
    many = Many()
    async with LoopManager.from_plugins(many, settings=LoopnestSettings(state_dir=tmp_path)) as loops:
        keys, asked = SessionKeys(loops), set()
        first = await keys.find("key-0")
        for number in (1, 500, 999):
            before = many.listings
            found = await keys.find(f"key-{number}")
            assert found.conversation_id == f"c{number}"
            asked.add(many.listings - before)
    assert first.conversation_id == "c0"
    assert asked == {1}  # the loop itself, which may have stopped


async def test_a_key_that_is_new_or_no_longer_is_one_is_noticed(tmp_path):
    many = Many()
    async with LoopManager.from_plugins(many, settings=LoopnestSettings(state_dir=tmp_path)) as loops:
        keys = SessionKeys(loops)
        assert (await keys.find("key-1")).conversation_id == "c1"
        many.loops["c1"] = many.loop(1, "new")
        assert await keys.find("key-1") is None
        assert (await keys.find("new-1")).conversation_id == "c1"
        del many.loops["c1"]
        assert await keys.find("new-1") is None
