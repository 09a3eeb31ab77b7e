"""What the author of a strategy provides, and what the tests of the suite share."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

import pytest
import pytest_asyncio

from loopnest.capabilities import Capability
from loopnest.manager import LoopManager
from loopnest.models import Loop, LoopChange, LoopQuery, LoopStatus
from loopnest.owners import EVERYONE
from loopnest.requests import Conversation, Message, StartLoop
from loopnest.testing.profile import NOT_DECLARED, Profile, needed

ALICE: Final = "alice@example.com"
BOB: Final = "bob@example.com"
BAD_IDS: Final = ("", "-x", ".", "../other", "a/b", "a b", "a\n", "ä", "x" * 65)
NewManager = Callable[[], LoopManager]


def user_message(text: str) -> Message:
    """A message that the agent does not act upon."""
    return Message(text=text, run=False)


class Harness:
    """Base of all tests of the suite."""

    pytestmark = pytest.mark.asyncio
    #: Seconds within which a loop must start, stop or fail.
    patience: float = 180

    # --- what the author of a strategy provides -----------------------------------------------------------------------

    @pytest.fixture
    def new_manager(self) -> NewManager:
        """Return what builds a manager, not entered yet; each one stands for another host process.

        All of one test share a namespace, a secret and a state directory.
        """
        raise NotImplementedError("override the fixture 'new_manager'")

    async def received(self, loops: LoopManager, conversation_id: str) -> Sequence[str]:
        """Return the texts of all messages that a running loop received so far, oldest first."""
        raise NotImplementedError("override 'received'")

    def new_request(self, conversation_id: str) -> StartLoop:
        """Return a request that succeeds; the suite may add an initial message or notes."""
        return StartLoop(conversation_id=conversation_id)

    def broken_request(self, conversation_id: str) -> StartLoop | None:  # noqa: ARG002
        """Return a request whose start fails, with a reason of its own; None where there can't be one."""
        return None

    # --- what the tests share -----------------------------------------------------------------------------------------

    @pytest.fixture
    def profile(self, new_manager: NewManager, request: pytest.FixtureRequest) -> Profile:
        """What the strategy declares; a test that needs more is skipped."""
        profile = Profile.of(new_manager())
        profile.note(request.node)
        if missing := ", ".join(sorted(needed(request.function) - profile.capabilities)):
            # Not a failure: the author promises nothing here. The report lists the test as not declared.
            request.node.user_properties.append((NOT_DECLARED, missing))
            pytest.skip(f"The strategy does not declare {missing}.")
        return profile

    @pytest_asyncio.fixture
    async def loops(self, new_manager: NewManager, profile: Profile) -> AsyncIterator[LoopManager]:  # noqa: ARG002
        """An open manager; what is left of the test's loops is removed after it."""
        async with opened(new_manager) as loops:
            yield loops

    @pytest_asyncio.fixture
    async def elsewhere(
        self, new_manager: NewManager, profile: Profile, loops: LoopManager
    ) -> AsyncIterator[LoopManager]:
        """Another host beside the one of ``loops``; the same one where hosts don't share loops."""
        if Capability.SHARED not in profile.capabilities:
            yield loops
            return
        async with new_manager() as elsewhere:
            yield elsewhere

    @pytest.fixture
    def cid(self) -> str:
        """A conversation id that was never used before."""
        return f"c-{uuid.uuid4().hex[:12]}"

    def request_with(self, cid: str, **changes: Any) -> StartLoop:
        """A request that succeeds, with some of its facts changed."""
        return self.new_request(cid).model_copy(update=changes)

    def request_with_message(self, cid: str, text: str) -> StartLoop:
        """A request that succeeds, with an initial message."""
        request = self.new_request(cid)
        conversation = (request.conversation or Conversation()).model_copy(
            update={"initial_message": user_message(text)}
        )
        return request.model_copy(update={"conversation": conversation})

    def broken(self, cid: str) -> StartLoop:
        """A request that fails."""
        # Only the author knows whether there is such a request. A suite with this skip does not conform in the report.
        return self.broken_request(cid) or pytest.skip(
            "'broken_request' returns None, so no start can be made to fail."
        )

    async def until(self, changes: AsyncIterator[LoopChange], *statuses: LoopStatus | None) -> list[LoopChange]:
        """The changes up to one to any of ``statuses``, which must come within `patience`."""

        async def seen_until() -> list[LoopChange]:
            seen = [await anext(changes)]
            while seen[-1].status not in statuses:
                seen.append(await anext(changes))
            return seen

        return await asyncio.wait_for(seen_until(), self.patience)

    @staticmethod
    async def listed(loops: LoopManager, cid: str) -> list[Loop]:
        """The loops of one conversation, of any owner: one, or none."""
        return await loops.list_loops(LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({cid})))

    @staticmethod
    def calls(loops: LoopManager, cid: str, user_id: str | None) -> list[Coroutine[Any, Any, object]]:
        """All calls that concern one loop, not awaited yet."""
        return [
            loops.get_loop(cid, user_id),
            loops.send_event(cid, user_message("hello"), user_id),
            loops.loop_logs(cid, user_id),
            loops.close_session(cid, user_id),
            loops.close_session(cid, user_id, remove=True),
        ]


@contextlib.asynccontextmanager
async def opened(new_manager: NewManager) -> AsyncIterator[LoopManager]:
    """Open a manager; what is left of its namespace's loops is removed in the end."""
    async with new_manager() as loops:
        yield loops
        for loop in await loops.list_loops(LoopQuery(user_id=EVERYONE)):
            await loops.close_session(loop.conversation_id, EVERYONE, remove=True)


def place_of(loop: Loop) -> tuple[Any, ...]:
    """What two answers about the same loop must agree on."""
    key = loop.session_key.get_secret_value() if loop.session_key else None
    return loop.conversation_id, loop.owner, loop.url, key, loop.nested_id, loop.created_at
