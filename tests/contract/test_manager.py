"""What `LoopManager` does for every strategy."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from loopnest import (
    EVERYONE,
    Control,
    Delivery,
    HookTimeout,
    InvalidRequest,
    Loop,
    LoopChange,
    LoopFailed,
    LoopManager,
    LoopnestError,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    Message,
    Phase,
    Reason,
    hookimpl,
    owner_of,
)

from ..start_requests import start_request
from .doubles import (
    Bad,
    Forgetful,
    Healthy,
    Hesitant,
    Indiscreet,
    Listener,
    Never,
    Pausable,
    Slow,
    SlowAndBad,
    Speechless,
    Stubborn,
)

ALICE, BOB = "alice@example.com", "bob@example.com"
HELLO = Message(text="hello")
BAD_IDS = ["", "../other", "a/b", "-x", "_x", ".", "a b", "a" * 65, "a\n", "ä", "a\0"]


def begin(loops, conversation_id="c1", user_id=ALICE, wait=True, **facts):
    return loops.start_loop(start_request(conversation_id, **facts), user_id, wait=wait)


async def phases(loops, action):
    """What is told while ``action`` is awaited, as (phase, status, reason)."""
    async with loops.watch() as changes:
        await asyncio.gather(action, return_exceptions=True)
        await loops.aclose()
        return [(change.phase, change.status, change.loop.reason) async for change in changes]


# --- arguments and ownership ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [*BAD_IDS, None, 7])
async def test_a_malformed_id_is_refused_everywhere_and_named(opened, bad):
    async with opened(Healthy()) as loops:
        calls = [
            loops.close_session(bad, ALICE),
            loops.send_event(bad, HELLO, ALICE),
            loops.get_loop(bad, ALICE),
            loops.loop_logs(bad, ALICE),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match="'conversation_id' must be 1 to 64 letters"):
                await call


@pytest.mark.parametrize("bad", BAD_IDS)
def test_a_start_can_t_be_asked_for_with_a_malformed_id(bad):
    with pytest.raises(ValidationError):
        start_request(bad)


async def test_an_operator_starts_no_loop_without_an_owner(opened):
    async with opened(Healthy()) as loops:
        with pytest.raises(InvalidRequest, match="'user_id'"):
            await begin(loops, user_id=EVERYONE)
        await begin(loops)
        await loops.close_session("c1", ALICE)
        assert (await begin(loops, user_id=EVERYONE)).owner == owner_of(ALICE)


@pytest.mark.parametrize("stranger", [BOB, None, "nobody", owner_of(ALICE)])
async def test_somebody_else_s_loop_is_not_found_by_any_method(opened, stranger):
    async with opened(Healthy()) as loops:
        await begin(loops)
        calls = [
            begin(loops, user_id=stranger),
            loops.close_session("c1", stranger),
            loops.close_session("c1", stranger, remove=True),
            loops.send_event("c1", HELLO, stranger),
            loops.get_loop("c1", stranger),
            loops.loop_logs("c1", stranger),
        ]
        for call in calls:
            with pytest.raises(LoopNotFound, match="No loop for conversation 'c1'"):
                await call
        assert await loops.list_loops(LoopQuery(user_id=stranger)) == []
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING


async def test_a_loop_that_does_not_exist_looks_like_somebody_else_s(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        messages = []
        for conversation_id, user_id in [("c1", BOB), ("c2", BOB)]:
            with pytest.raises(LoopNotFound) as caught:
                await loops.send_event(conversation_id, HELLO, user_id)
            messages.append(str(caught.value).replace(conversation_id, "X"))
        assert messages[0] == messages[1]


async def test_everyone_stands_for_all_users(opened):
    async with opened(Healthy()) as loops:
        await begin(loops, "c1", ALICE)
        await begin(loops, "c2", None)
        assert {loop.conversation_id for loop in await loops.list_loops(LoopQuery(user_id=EVERYONE))} == {"c1", "c2"}
        await loops.send_event("c1", HELLO, EVERYONE)
        await loops.close_session("c2", EVERYONE)


async def test_two_users_who_race_for_an_id_get_one_loop(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        winner = asyncio.ensure_future(begin(loops, user_id=ALICE))
        await strategy.entered.wait()
        with pytest.raises(LoopNotFound):
            await begin(loops, user_id=BOB)
        strategy.gate.set()
        assert (await winner).owner == owner_of(ALICE)


async def test_a_strategy_that_answers_with_somebody_else_s_loop_is_not_believed(opened):
    strategy = Forgetful()
    async with opened(strategy) as loops:
        await begin(loops, user_id=ALICE)
        with pytest.raises(LoopNotFound):
            await begin(loops, user_id=BOB)
        assert await loops.list_loops(LoopQuery(user_id=BOB)) == []


# --- starts -------------------------------------------------------------------------------------------------------


async def test_a_hundred_starts_at_once_are_one(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        waiting = [asyncio.ensure_future(begin(loops)) for _ in range(100)]
        await strategy.entered.wait()
        await loops.list_loops()  # whose turn comes after theirs
        strategy.gate.set()
        assert len({id(loop) for loop in await asyncio.gather(*waiting)}) == 1
        assert strategy.calls == 1


async def test_a_start_that_goes_on_is_listed_with_its_phase(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        starting = await begin(loops, wait=False)
        assert (starting.status, starting.phase) == (LoopStatus.STARTING, "requested")
        await strategy.entered.wait()
        (listed,) = await loops.list_loops(LoopQuery(user_id=ALICE))
        assert listed.status is LoopStatus.STARTING
        assert listed.created_at is not None
        strategy.gate.set()
        assert (await begin(loops)).status is LoopStatus.RUNNING


async def test_a_running_loop_is_returned_at_once_without_wait(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        assert (await begin(loops, wait=False)).status is LoopStatus.RUNNING


async def test_a_caller_that_goes_away_does_not_end_the_start_of_the_others(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        stays = asyncio.ensure_future(begin(loops))
        leaves = asyncio.ensure_future(begin(loops))
        await strategy.entered.wait()
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        strategy.gate.set()
        assert (await stays).status is LoopStatus.RUNNING


async def test_a_start_goes_on_when_its_only_caller_goes_away(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        leaves = asyncio.ensure_future(begin(loops))
        await strategy.entered.wait()
        leaves.cancel()
        strategy.gate.set()
        await asyncio.wait({leaves})
        assert (await begin(loops)).status is LoopStatus.RUNNING
        assert strategy.calls <= 2


async def test_closing_ends_a_start_and_tells_those_who_wait(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        waiting = asyncio.ensure_future(begin(loops))
        await strategy.entered.wait()
        closed = await loops.close_session("c1", ALICE)
        with pytest.raises(LoopFailed, match="closed while it was starting") as caught:
            await waiting
        assert caught.value.reason == Reason.INTERRUPTED
        assert strategy.cleaned_up
        assert closed.removed
        assert not closed.already
        assert await loops.list_loops(LoopQuery(user_id=ALICE)) == []


async def test_only_the_owner_ends_a_start(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        waiting = asyncio.ensure_future(begin(loops))
        await strategy.entered.wait()
        with pytest.raises(LoopNotFound):
            await loops.close_session("c1", BOB)
        strategy.gate.set()
        await waiting


async def test_a_start_that_fails_without_wait_is_listed_with_its_reason(opened):
    async with opened(Healthy()) as loops:
        async with loops.watch() as changes:
            await begin(loops, image="missing", wait=False)
            told = [await anext(changes), await anext(changes)]
        assert [(change.phase, change.status) for change in told] == [
            ("requested", LoopStatus.STARTING),
            ("failed", LoopStatus.FAILED),
        ]
        (listed,) = await loops.list_loops(LoopQuery(user_id=ALICE))
        assert (listed.status, listed.reason) == (LoopStatus.FAILED, Reason.IMAGE_MISSING)
        assert told[1].loop.reason == listed.reason
        assert "There is no image 'missing'." in (listed.message, told[1].loop.message)


async def test_a_failed_start_is_listed_by_the_next_host_process_too(opened):
    async with opened(Healthy()) as loops:
        with pytest.raises(LoopFailed):
            await begin(loops, image="missing")
    async with opened(Healthy()) as loops:
        assert (await loops.get_loop("c1", ALICE)).reason == Reason.IMAGE_MISSING


async def test_a_failed_start_is_forgotten_after_its_retention(opened):
    async with opened(Healthy(), failed_retention=0) as loops:
        with pytest.raises(LoopFailed):
            await begin(loops, image="missing")
        assert await loops.list_loops(LoopQuery(user_id=ALICE)) == []


async def test_the_next_start_drops_the_failure(opened):
    async with opened(Healthy()) as loops:
        with pytest.raises(LoopFailed):
            await begin(loops, image="missing")
        await begin(loops)
        await loops.close_session("c1", ALICE)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.STOPPED


async def test_a_stopped_loop_that_fails_to_start_is_listed_as_failed(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE)
        with pytest.raises(LoopFailed):
            await begin(loops, image="missing")
        listed = await loops.get_loop("c1", ALICE)
        assert (listed.status, listed.reason) == (LoopStatus.FAILED, Reason.IMAGE_MISSING)
        await loops.close_session("c1", ALICE)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.STOPPED


async def test_a_start_behind_a_close_tells_that_it_starts(opened):
    class SlowToClose(Healthy):
        gate = asyncio.Event()

        @hookimpl
        async def close_session(self, conversation_id, remove):
            await self.gate.wait()
            return super().close_session(conversation_id, remove)

    listener = Listener()
    async with opened(SlowToClose(), listener) as loops:
        await begin(loops)
        closing = asyncio.ensure_future(loops.close_session("c1", ALICE))
        await asyncio.sleep(0.01)
        starting = asyncio.ensure_future(begin(loops))
        await asyncio.sleep(0.01)
        SlowToClose.gate.set()
        await asyncio.gather(closing, starting)
    assert [change.phase for change in listener.heard] == [
        *("requested", "ready", "stopping", "stopped"),
        *("requested", "ready"),
    ]


# --- plugins that misbehave -------------------------------------------------------------------------------------------


async def test_a_strategy_that_never_starts_is_cut_off(opened):
    async with opened(Never(), timeouts={"start": 0.05}) as loops:
        with pytest.raises(HookTimeout, match=r"start_loop within 0.05 s \('loopnest.timeouts.start'\)"):
            await begin(loops)
        assert (await loops.get_loop("c1", ALICE)).reason == Reason.HOOK_TIMEOUT


@pytest.mark.usefixtures("impatient")
async def test_a_strategy_that_ignores_its_cancellation_is_waited_for_no_longer(opened):
    strategy = Stubborn()
    async with opened(strategy, timeouts={"start": 0.05}) as loops:
        with pytest.raises(HookTimeout):
            await begin(loops)
        waiting = asyncio.ensure_future(begin(loops, "c2"))
        await asyncio.sleep(0)
        await loops.close_session("c1", ALICE)
        strategy.released.set()
        with pytest.raises(LoopnestError):
            await waiting


@pytest.mark.parametrize("strategy", [Bad, SlowAndBad])
async def test_an_unexpected_error_is_a_failure_whose_text_is_only_logged(opened, strategy, caplog):
    bad = strategy()
    getattr(bad, "gate", asyncio.Event()).set()
    async with opened(bad) as loops:
        with pytest.raises(LoopFailed, match=r"^A plugin failed: LookupError\.$") as caught:
            await begin(loops)
        assert caught.value.reason == Reason.INTERNAL
        assert caught.value.conversation_id == "c1"
        assert "sk-secret" not in (await loops.get_loop("c1", ALICE)).model_dump_json()
    assert "LookupError" in caplog.text


async def test_a_plugin_s_own_timeout_error_is_no_hook_timeout(opened):
    class Impatient(Healthy):
        @hookimpl
        def start_loop(self, request):
            raise asyncio.TimeoutError

    async with opened(Impatient()) as loops:
        with pytest.raises(LoopFailed) as caught:
            await begin(loops)
        assert caught.value.reason == Reason.INTERNAL


async def test_no_answer_is_an_error_that_names_the_hook(opened):
    async with opened(Speechless()) as loops:
        with pytest.raises(
            LoopnestError, match="No plugin answered start_loop; the strategy 'in-memory' must"
        ) as caught:
            await begin(loops)
        assert caught.value.reason == Reason.NO_ANSWER
        (listed,) = await loops.list_loops(LoopQuery(user_id=ALICE))
        assert listed.reason == Reason.NO_ANSWER


async def test_no_answer_to_list_is_an_empty_list(opened):
    async with opened(Speechless()) as loops:
        assert await loops.list_loops() == []


async def test_what_a_strategy_lists_unasked_is_left_out(opened):
    async with opened(Indiscreet()) as loops:
        await begin(loops, "c1", ALICE)
        await begin(loops, "c2", BOB)
        (loop,) = await loops.list_loops(LoopQuery(user_id=ALICE))
        assert loop.conversation_id == "c1"
        query = LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({"c2", "c3"}))
        assert [loop.conversation_id for loop in await loops.list_loops(query)] == ["c2"]
        assert await loops.list_loops(LoopQuery(user_id=ALICE, statuses=frozenset({LoopStatus.STOPPED}))) == []


async def test_each_hook_has_its_limit(opened):
    class Hangs(Healthy):
        @hookimpl
        async def list_loops(self, query):
            await asyncio.Event().wait()

    async with opened(Hangs(), timeouts={"list": 0.02}) as loops:
        with pytest.raises(HookTimeout, match=r"list_loops within 0.02 s"):
            await loops.list_loops()


# --- events -------------------------------------------------------------------------------------------------------


async def test_events_sent_at_once_arrive_in_the_order_of_the_calls(opened):
    strategy = Hesitant()
    async with opened(strategy) as loops:
        await begin(loops)
        events = [Message(text=str(number)) for number in range(10)]
        await asyncio.gather(*(loops.send_event("c1", event, ALICE) for event in events))
        assert strategy.nests["c1"].events == events


async def test_events_of_other_conversations_do_not_wait(opened):
    class Stuck(Healthy):
        gate = asyncio.Event()

        @hookimpl
        async def send_event(self, conversation_id, event):
            if conversation_id == "c1":
                await self.gate.wait()
            return super().send_event(conversation_id, event)

    async with opened(Stuck()) as loops:
        await begin(loops, "c1")
        await begin(loops, "c2")
        stuck = asyncio.ensure_future(loops.send_event("c1", HELLO, ALICE))
        await loops.send_event("c2", HELLO, ALICE)
        assert not stuck.done()
        Stuck.gate.set()
        await stuck


async def test_an_event_starts_a_stopped_loop_again_and_publishes_that_once(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE)
        told = await phases(loops, loops.send_event("c1", HELLO, ALICE))
    assert told == [("requested", LoopStatus.STARTING, None), ("ready", LoopStatus.RUNNING, None)]


async def test_an_event_leaves_a_stopped_loop_stopped_where_the_setting_says_so(opened):
    async with opened(Healthy(), restart_on_send=False) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE)
        with pytest.raises(LoopFailed, match=r"loopnest\.restart_on_send") as caught:
            await loops.send_event("c1", HELLO, ALICE)
        assert caught.value.reason == Reason.NOT_RUNNING


async def test_an_operator_s_event_starts_a_loop_for_its_owner(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE)
        await loops.send_event("c1", HELLO, EVERYONE)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING


# --- pausing ------------------------------------------------------------------------------------------------------


async def test_a_strategy_without_pause_loop_is_refused_by_name(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        with pytest.raises(LoopnestError, match="'in-memory' can't pause or resume loops") as caught:
            await loops.pause_loop("c1", ALICE)
        assert caught.value.reason == Reason.UNSUPPORTED


async def test_only_the_owner_pauses_and_resumes(opened):
    async with opened(Pausable()) as loops:
        await begin(loops)
        for call in (loops.pause_loop, loops.resume_loop):
            with pytest.raises(LoopNotFound):
                await call("c1", BOB)
        assert (await loops.pause_loop("c1", ALICE)).status is LoopStatus.PAUSED
        assert (await loops.resume_loop("c1", EVERYONE)).status is LoopStatus.RUNNING


async def test_a_stopped_loop_can_be_neither_paused_nor_resumed(opened):
    async with opened(Pausable()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE)
        for call in (loops.pause_loop, loops.resume_loop):
            with pytest.raises(LoopFailed, match="The loop is stopped") as caught:
                await call("c1", ALICE)
            assert caught.value.reason == Reason.NOT_RUNNING


# --- closing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remove", [True, False])
async def test_closing_twice_is_no_error(opened, remove):
    async with opened(Healthy()) as loops:
        await begin(loops)
        first = await loops.close_session("c1", ALICE, remove=remove)
        second = await loops.close_session("c1", ALICE, remove=remove)
        assert (first.already, second.already) == (False, True)


async def test_somebody_else_does_not_find_a_removed_loop_either(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE, remove=True)
        with pytest.raises(LoopNotFound):
            await loops.close_session("c1", BOB, remove=True)
        with pytest.raises(LoopNotFound):
            await loops.get_loop("c1", ALICE)
        assert await loops.list_loops(LoopQuery(user_id=EVERYONE)) == []


async def test_a_removed_loop_can_be_started_afresh(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE, remove=True)
        assert (await begin(loops)).status is LoopStatus.RUNNING
        await loops.close_session("c1", ALICE)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.STOPPED


async def test_closing_a_failed_start_clears_it_away(opened):
    async with opened(Healthy()) as loops:
        with pytest.raises(LoopFailed):
            await begin(loops, image="missing")
        assert (await loops.close_session("c1", ALICE)).already
        assert await loops.list_loops(LoopQuery(user_id=ALICE)) == []
        assert (await loops.close_session("c1", ALICE)).already


async def test_closing_what_never_was_is_not_found(opened):
    async with opened(Healthy()) as loops:
        with pytest.raises(LoopNotFound):
            await loops.close_session("c1", ALICE)


async def test_a_loop_closed_with_a_failure_is_listed_with_its_reason(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        lost = LoopFailed("The history is lost.", reason=Reason.HISTORY_LOST)
        told = await phases(loops, loops.close_session("c1", ALICE, failure=lost))
        assert told[-1] == ("failed", LoopStatus.FAILED, "history-lost")
        (loop,) = await loops.list_loops(LoopQuery(user_id=ALICE))
        assert (loop.status, loop.reason, loop.message) == (LoopStatus.FAILED, "history-lost", "The history is lost.")


async def test_a_loop_closed_with_a_failure_starts_again(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE, failure=LoopFailed("Lost.", reason=Reason.HISTORY_LOST))
        assert (await begin(loops)).status is LoopStatus.RUNNING
        assert (await loops.get_loop("c1", ALICE)).reason is None


async def test_closing_is_told_step_by_step(opened):
    listener = Listener()
    async with opened(Healthy(), listener) as loops:
        await begin(loops)
        await loops.close_session("c1", ALICE)
        await loops.close_session("c1", ALICE)
        await loops.close_session("c1", ALICE, remove=True)
        await loops.close_session("c1", ALICE, remove=True)
    assert [(change.phase, change.status) for change in listener.heard] == [
        ("requested", LoopStatus.STARTING),
        ("ready", LoopStatus.RUNNING),
        ("stopping", LoopStatus.RUNNING),
        ("stopped", LoopStatus.STOPPED),
        ("removed", None),
    ]
    assert {change.loop.owner for change in listener.heard} == {owner_of(ALICE)}


async def test_listeners_hear_each_change_once_whatever_they_call_their_hook(opened):
    class Renamed:
        def __init__(self):
            self.heard = []

        @hookimpl(specname="loop_changed")
        def on_change(self, change):
            self.heard.append(change.phase)

    class Meddler:
        @hookimpl(wrapper=True)
        def loop_changed(self, change):
            return (yield {"change": change.model_copy(update={"phase": f"{change.phase}!"})})

    renamed, listener = Renamed(), Listener()
    async with opened(Healthy(), renamed, listener, Meddler()) as loops:
        await begin(loops)
    assert renamed.heard == [change.phase for change in listener.heard] == ["requested!", "ready!"]


async def test_a_start_of_a_running_loop_tells_nothing(opened):
    listener = Listener()
    async with opened(Healthy(), listener) as loops:
        await begin(loops)
        await begin(loops)
    assert [change.phase for change in listener.heard] == ["requested", "ready"]


# --- life of the manager ----------------------------------------------------------------------------------------------


class Diary:
    """A plugin that notes when it is opened and closed."""

    def __init__(self, name, diary, fails=()):
        self.name, self.diary, self.fails = name, diary, fails

    @hookimpl
    def open_strategy(self, context):
        self._note("open")

    @hookimpl
    async def close_strategy(self):
        self._note("close")

    def _note(self, what):
        self.diary.append(f"{what} {self.name}")
        if what in self.fails:
            raise LookupError(f"{what} {self.name}")


class DiaryStrategy(Diary, Healthy):
    """A strategy that notes when it is opened and closed."""

    def __init__(self, name, diary, fails=()):
        Healthy.__init__(self)
        Diary.__init__(self, name, diary, fails)


async def test_the_strategy_is_opened_first_and_closed_last(opened):
    diary = []
    async with opened(DiaryStrategy("strategy", diary), Diary("outer", diary), Diary("inner", diary)):
        pass
    assert diary == ["open strategy", "open inner", "open outer", "close outer", "close inner", "close strategy"]


async def test_a_plugin_that_fails_to_open_stops_the_start_and_all_are_closed(opened):
    diary = []
    with pytest.raises(LookupError, match="open outer"):
        async with opened(DiaryStrategy("strategy", diary), Diary("outer", diary, fails={"open"})):
            pytest.fail("was opened")
    assert diary == ["open strategy", "open outer", "close outer", "close strategy"]


async def test_a_plugin_that_fails_to_close_does_not_keep_the_others_open(opened):
    diary = []
    with pytest.raises(LookupError, match="close outer"):
        async with opened(DiaryStrategy("strategy", diary), Diary("outer", diary, fails={"close"})):
            pass
    assert diary[-2:] == ["close outer", "close strategy"]


async def test_closing_the_manager_twice_is_no_error(opened):
    diary = []
    async with opened(DiaryStrategy("strategy", diary)) as loops:
        await loops.aclose()
    assert diary == ["open strategy", "close strategy"]


async def test_closing_the_manager_leaves_loops_running(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
    async with opened(Healthy()) as loops:
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING


async def test_a_start_that_the_end_of_the_host_interrupts_is_explained_to_the_next(opened):
    strategy, listener = Slow(), Listener()
    async with opened(strategy, listener) as loops:
        await begin(loops, wait=False)
        await strategy.entered.wait()
    assert strategy.cleaned_up
    assert listener.heard[-1].loop.reason == Reason.INTERRUPTED
    async with opened(Healthy()) as loops:
        failed = await loops.get_loop("c1", ALICE)
        assert (failed.status, failed.reason) == (LoopStatus.FAILED, Reason.INTERRUPTED)


async def test_diagnose_needs_no_open_manager(settings):
    class Doctor(Healthy):
        @hookimpl
        def diagnose(self):
            return [{"check": "pulse"}]

    loops = LoopManager.from_plugins(Doctor(), Listener(), settings=settings)
    assert await loops.diagnose() == [{"check": "pulse"}]


async def test_the_log_of_a_loop_without_one_is_what_was_kept_of_its_failure(opened):
    class Crashes(Healthy):
        @hookimpl
        def start_loop(self, request):
            raise LoopFailed("It exited.", exit_code=3, log_tail=["first", "last"])

    async with opened(Crashes()) as loops:
        with pytest.raises(LoopFailed):
            await begin(loops)
        assert [line async for line in await loops.loop_logs("c1", ALICE)] == ["first", "last"]
        assert (await loops.get_loop("c1", ALICE)).exit_code == 3


async def test_the_context_tells_a_strategy_where_it_is(opened, tmp_path):
    seen = []

    class Curious(Healthy):
        @hookimpl
        def open_strategy(self, context):
            seen.append(context)

    async with opened(Curious(), namespace="blue"):
        (context,) = seen
        assert (context.strategy, context.namespace) == ("in-memory", "blue")
        assert context.state_dir == tmp_path / "blue"
        assert "a secret" not in repr(context)


async def test_a_strategy_s_own_changes_move_the_phase_of_a_start(opened):
    class Chatty(Slow):
        @hookimpl
        def open_strategy(self, context):
            super().open_strategy(context)
            self.emit = context.emit

    strategy = Chatty()
    async with opened(strategy) as loops:
        await begin(loops, wait=False)
        await strategy.entered.wait()
        starting = Loop(conversation_id="c1", owner=owner_of(ALICE), status=LoopStatus.STARTING)
        strategy.emit(LoopChange(loop=starting, phase=Phase.BOOTING))
        assert (await loops.get_loop("c1", ALICE)).phase == "booting"


# --- overrides ----------------------------------------------------------------------------------------------------


async def test_an_override_answers_for_some_and_defers_for_others(opened):
    special = Healthy()

    class Elsewhere:
        @hookimpl
        async def start_loop(self, request):
            await asyncio.sleep(0)
            return special.start_loop(request) if request.conversation_id == "special" else None

        @hookimpl(wrapper=True)
        def list_loops(self, query):
            return [*(yield), *special.list_loops(query)]

    special.strategy, special.nests, strategy = "special", {}, Healthy()
    async with opened(strategy, Elsewhere()) as loops:
        await begin(loops, "special")
        await begin(loops, "plain")
        assert {loop.conversation_id: loop.strategy for loop in await loops.list_loops(LoopQuery(user_id=ALICE))} == {
            "special": "special",
            "plain": "in-memory",
        }
        assert list(strategy.nests) == ["plain"]


async def test_an_interruption_overtakes_a_message_that_waits_for_the_agent_s_tool(opened):
    tool_ended = asyncio.Event()

    class Busy(Healthy):
        @hookimpl
        async def send_event(self, conversation_id, event):
            if isinstance(event, Message):
                await tool_ended.wait()
            else:
                tool_ended.set()
            return Delivery(conversation_id=conversation_id)

    async with opened(Busy()) as loops:
        await begin(loops, "c1")
        message = asyncio.ensure_future(loops.send_event("c1", Message(text="hello"), ALICE))
        await asyncio.sleep(0)
        await asyncio.wait_for(loops.send_event("c1", Control(action="interrupt"), ALICE), 5)
        await asyncio.wait_for(message, 5)


async def test_the_first_override_is_asked_first(opened):
    asked = []

    def asks(name):
        class Asks:
            @hookimpl
            def send_event(self):
                asked.append(name)

        return Asks()

    async with opened(Healthy(), asks("first"), asks("second")) as loops:
        await begin(loops)
        await loops.send_event("c1", HELLO, ALICE)
    assert asked == ["first", "second"]


async def test_an_override_redacts_what_the_strategy_delivers(opened):
    import redact_events

    strategy = Healthy()
    async with opened(strategy, redact_events) as loops:
        await begin(loops)
        await loops.send_event("c1", Message(text="use sk-abcdefgh1234 and ghp_abcdefgh1234"), ALICE)
    assert strategy.nests["c1"].events == [Message(text="use sk-[redacted] and ghp_[redacted]")]


async def test_a_manager_refuses_to_work_in_another_event_loop(opened):
    async with opened(Healthy()) as loops:
        await begin(loops)
        calls = [
            lambda: loops.start_loop(start_request("c2"), ALICE),
            lambda: loops.send_event("c1", HELLO, ALICE),
            lambda: loops.close_session("c1", ALICE),
            lambda: loops.pause_loop("c1", ALICE),
            lambda: loops.get_loop("c1", ALICE),
            lambda: loops.list_loops(LoopQuery(user_id=ALICE)),
        ]

        async def run(call):
            return await call()

        for call in calls:
            with pytest.raises(LoopnestError, match="opened in another event loop"):
                await asyncio.to_thread(asyncio.run, run(call))
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING
