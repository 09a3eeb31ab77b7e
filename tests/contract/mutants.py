"""Strategies with one deliberate defect each, named for it; the conformance suite must fail every one of them."""

from __future__ import annotations

import asyncio
import uuid

from in_memory_loops import Nest

from loopnest import Delivery, Loop, LoopChange, LoopFailed, LoopStatus, NestedError, Phase, Reason, hookimpl

from .doubles import Healthy

#: Which test of the suite fails on each mutant.
CAUGHT_BY: dict[type, str] = {}


def caught_by(test):
    """Note which test of the suite fails on this mutant."""
    return lambda mutant: CAUGHT_BY.setdefault(mutant, test) and mutant


@caught_by("test_a_loop_of_another_user_is_not_started_by_the_strategy")
class StartsForStrangers(Healthy):
    @hookimpl
    def start_loop(self, request):
        nest = self.nests.get(request.conversation_id)
        return nest.loop if nest else super().start_loop(request)


@caught_by("test_the_initial_message_arrives_once_however_often_it_is_started")
class RepeatsTheInitialMessage(Healthy):
    @hookimpl
    def start_loop(self, request):
        known = request.conversation_id in self.nests
        loop = super().start_loop(request)
        if known and request.conversation.initial_message:
            self.nests[request.conversation_id].events.append(request.conversation.initial_message)
        return loop


@caught_by("test_a_hundred_starts_at_once_make_one_loop")
class LosesTheRace(Healthy):
    @hookimpl
    async def start_loop(self, request):
        known = self.nests.get(request.conversation_id)
        await asyncio.sleep(0.01)
        if known is None:
            self.nests.pop(request.conversation_id, None)
        loop = super().start_loop(request)
        if known is None:
            loop = self.nests[request.conversation_id].loop = loop.model_copy(update={"url": uuid.uuid4().hex})
        return loop


@caught_by("test_of_two_users_who_race_for_an_id_one_gets_it")
class GivesTheLoopToTheLastInARace(LosesTheRace):
    @hookimpl
    async def start_loop(self, request):
        await asyncio.sleep(0.01)
        return await super().start_loop(request)


@caught_by("test_a_start_answers_with_a_running_loop")
class AnswersBeforeItRuns(Healthy):
    @hookimpl
    def start_loop(self, request):
        return super().start_loop(request).model_copy(update={"status": LoopStatus.STARTING})


@caught_by("test_a_start_answers_with_a_running_loop")
class ForgetsTheOwner(Healthy):
    @hookimpl
    def start_loop(self, request):
        return super().start_loop(request.model_copy(update={"owner": "nobody"}))


@caught_by("test_notes_come_back_from_every_host")
class ForgetsNotes(Healthy):
    @hookimpl
    def start_loop(self, request):
        return super().start_loop(request.model_copy(update={"notes": {}}))


@caught_by("test_a_start_that_fails_has_a_reason_and_is_listed_with_it[True]")
class FailsWithoutReason(Healthy):
    @hookimpl
    def start_loop(self, request):
        if request.image:
            raise LookupError(request.image)
        return super().start_loop(request)


@caught_by("test_a_start_that_fails_has_a_reason_and_is_listed_with_it[False]")
class PretendsToHaveStarted(Healthy):
    @hookimpl
    def start_loop(self, request):
        return super().start_loop(request.model_copy(update={"image": None}))


@caught_by("test_a_start_that_fails_has_a_reason_and_is_listed_with_it[True]")
class KeepsWhatFailed(Healthy):
    @hookimpl
    def start_loop(self, request):
        loop = super().start_loop(request.model_copy(update={"image": None}))
        if request.image:
            raise LoopFailed("There is no image.", reason=Reason.IMAGE_MISSING)
        return loop


@caught_by("test_ids_that_are_none_are_left_out_of_listings")
class StumblesOverStrangeIds(Healthy):
    @hookimpl
    def list_loops(self, query):
        assert all(query.conversation_ids or ["any"])
        return super().list_loops(query)


@caught_by("test_another_host_sees_and_drives_the_same_loop")
class ListsEachLoopElsewhere(Healthy):
    @hookimpl
    def list_loops(self, query):
        loops = super().list_loops(query)
        return [loop.model_copy(update={"url": f"http://{id(loops):x}"}) for loop in loops]


@caught_by("test_listings_are_filtered_by_user_id_and_status")
class ListsOnlyWhatRuns(Healthy):
    @hookimpl
    def list_loops(self, query):
        return [loop for loop in super().list_loops(query) if loop.status is LoopStatus.RUNNING]


@caught_by("test_a_probe_finds_the_loop_too")
class CanNotProbe(Healthy):
    @hookimpl
    def list_loops(self, query):
        if query.probe:
            raise NestedError("It hangs.")
        return super().list_loops(query)


@caught_by("test_a_loop_that_went_away_since_its_lookup_is_not_found")
class ClosesWhatItDoesNotKnow(Healthy):
    @hookimpl
    def close_session(self, conversation_id, remove):
        self.nests.setdefault(conversation_id, Nest(None, []))
        return super().close_session(conversation_id, remove)


@caught_by("test_a_loop_that_went_away_since_its_lookup_is_not_found")
class DeliversToNobody(Healthy):
    @hookimpl
    def send_event(self, conversation_id, event):
        if conversation_id not in self.nests:
            return Delivery(conversation_id=conversation_id)
        return super().send_event(conversation_id, event)


@caught_by("test_an_event_for_a_stopped_loop_starts_it_again")
class StaysStopped(Healthy):
    @hookimpl
    def start_loop(self, request):
        nest = self.nests.get(request.conversation_id)
        return nest.loop if nest else super().start_loop(request)


@caught_by("test_events_sent_at_once_arrive_in_the_order_of_the_calls")
class DeliversNewestFirst(Healthy):
    @hookimpl
    def send_event(self, conversation_id, event):
        delivery = super().send_event(conversation_id, event)
        self.nests[conversation_id].events.reverse()
        return delivery


@caught_by("test_events_sent_at_once_arrive_in_the_order_of_the_calls")
class DeliversTwice(Healthy):
    @hookimpl
    def send_event(self, conversation_id, event):
        super().send_event(conversation_id, event)
        return super().send_event(conversation_id, event)


@caught_by("test_a_closed_loop_is_stopped_and_comes_back_with_its_history")
class ForgetsHistory(Healthy):
    @hookimpl
    def close_session(self, conversation_id, remove):
        self._nest(conversation_id).events.clear()
        return super().close_session(conversation_id, remove)


@caught_by("test_a_removed_loop_is_gone_with_its_history[running]")
class KeepsHistoryOfRemovedLoops(Healthy):
    @hookimpl
    def close_session(self, conversation_id, remove):
        return super().close_session(conversation_id, False).model_copy(update={"removed": remove})


@caught_by("test_a_loop_that_starts_can_be_closed[False]")
class NeverStopsAnything(Healthy):
    @hookimpl
    def close_session(self, conversation_id, remove):
        running = self._nest(conversation_id).loop
        closed = super().close_session(conversation_id, remove)
        if not remove:
            self.nests[conversation_id].loop = running
        return closed


@caught_by("test_closing_twice_is_no_error")
class CanNotCloseTwice(Healthy):
    @hookimpl
    def close_session(self, conversation_id, remove):
        if self._nest(conversation_id).loop.status is LoopStatus.STOPPED:
            raise LoopFailed("It is stopped already.", reason=Reason.NOT_RUNNING)
        return super().close_session(conversation_id, remove)


@caught_by("test_a_closed_loop_is_stopped_and_comes_back_with_its_history")
class RemovesWhatItShouldStop(Healthy):
    @hookimpl
    def close_session(self, conversation_id, remove):
        return super().close_session(conversation_id, True)


@caught_by("test_changes_are_published_in_order_without_gaps")
class TellsThatItStartsAfterItRan(Healthy):
    @hookimpl
    def open_strategy(self, context):
        super().open_strategy(context)
        self.emit = context.emit

    @hookimpl
    def close_session(self, conversation_id, remove):
        owner = self._nest(conversation_id).loop.owner
        starting = LoopStatus.STARTING
        loop = Loop(conversation_id=conversation_id, owner=owner, status=starting)
        self.emit(LoopChange(loop=loop, phase=Phase.BOOTING))
        return super().close_session(conversation_id, remove)


@caught_by("test_changes_are_published_in_order_without_gaps")
class TellsEverythingToNobody(TellsThatItStartsAfterItRan):
    @hookimpl
    def start_loop(self, request):
        starting = LoopStatus.STARTING
        loop = Loop(conversation_id=request.conversation_id, status=starting)
        self.emit(LoopChange(loop=loop, phase=Phase.BOOTING))
        return super().start_loop(request)

    close_session = Healthy.close_session


@caught_by("test_loops_run_on_when_their_host_ends")
class TakesItsLoopsAlong(Healthy):
    @hookimpl
    def close_strategy(self):
        for nest in self.nests.values():
            nest.loop = nest.loop.model_copy(update={"status": LoopStatus.STOPPED})


@caught_by("test_another_host_sees_and_drives_the_same_loop")
class RemembersOnlyItsOwnLoops(Healthy):
    @hookimpl
    def open_strategy(self, context):
        super().open_strategy(context)
        self.nests = {}
