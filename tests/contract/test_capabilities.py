"""A strategy's declared capabilities are checked when a host is built."""

from __future__ import annotations

import pytest

from loopnest import Capability, IllFittingPlugin, LoopManager, LoopnestError, Reason, StartLoop, hookimpl
from loopnest.capabilities import declared

from .doubles import Healthy, Pausable


@pytest.mark.parametrize(
    ("capabilities", "message"),
    [
        ({"pause"}, "Strategy 'in-memory' declares the capability 'pause', but lacks pause_loop, resume_loop"),
        ({Capability.LOGS}, "'logs', but lacks loop_logs"),
        ({"shared", "flies"}, r"declares CAPABILITIES \['flies'\]. It must be a set of pause, logs, survives-host"),
        ("logs", "declares CAPABILITIES logs. It must be a set of"),
        (None, "declares CAPABILITIES None. It must be a set of"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(settings, capabilities, message):
    class Declares(Healthy):
        CAPABILITIES = capabilities

    with pytest.raises(IllFittingPlugin, match=message):
        LoopManager.from_plugins(Declares(), settings=settings)


def test_a_strategy_without_a_declaration_has_no_capabilities():
    assert declared(object(), "plain") == frozenset()
    assert declared(Pausable(), "pausable") == frozenset(Capability)


async def test_logs_are_refused_unless_a_plugin_keeps_them(opened):
    class Filters:
        @hookimpl(wrapper=True)
        def loop_logs(self):
            return (yield)

    async with opened(Healthy(), Filters()) as loops:
        await loops.start_loop(StartLoop(conversation_id="c1"))
        with pytest.raises(LoopnestError, match="keeps no logs") as caught:
            await loops.loop_logs("c1")
        assert (caught.value.reason, caught.value.conversation_id) == (Reason.UNSUPPORTED, "c1")


async def test_lines_that_were_kept_are_read_without_the_capability(opened):
    class Failed(Healthy):
        @hookimpl
        def list_loops(self, query):
            kept = {"status": "failed", "log_tail": ("last",)}
            return [loop.model_copy(update=kept) for loop in super().list_loops(query)]

    async with opened(Failed()) as loops:
        await loops.start_loop(StartLoop(conversation_id="c1"))
        assert [line async for line in await loops.loop_logs("c1")] == ["last"]
