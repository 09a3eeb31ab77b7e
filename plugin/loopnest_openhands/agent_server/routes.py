"""The requests that concern conversations, each answered by, or with the help of, the loop's nested server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from loopnest import InvalidRequest, Loop, LoopFailed, LoopNotFound, NestedError, Reason
from loopnest_openhands.agent_server import launch, listing
from loopnest_openhands.agent_server.conversations import Conversations
from loopnest_openhands.agent_server.http_proxy import Relay, forward
from loopnest_openhands.agent_server.local import LocalConversations, replayed
from loopnest_openhands.agent_server.upstream import Stock

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS"})
#: After how many seconds a request is sent again that met a nested server which was just stopping.
_PAUSES: Final = (0.2, 0.4, 0.8, 1.6)
_CREDENTIALS: Final = (
    "The key of a loop's nested server stays with the host. Use this server's own key and the routes below "
    "/api/conversations/{conversation_id}."
)


class Routes:
    """Answers requests; `LoopNotFound` means that a conversation is no loop's."""

    def __init__(self, stock: Stock, conversations: Conversations, local: LocalConversations | None) -> None:
        self._stock, self._conversations, self._local = stock, conversations, local

    # --- the collection ---------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> ASGIApp:
        """Start a conversation in a loop, or here where the client asks for it and the configuration allows it."""
        raw = await request.body()
        body = _object(request, raw)
        if body.pop("conversation_runtime", None) == "local":
            if self._local is None:
                raise InvalidRequest(
                    "This server runs no local conversations. OH_CONVERSATION_RUNTIME_SELECTABLE=true allows them."
                )
            return replayed(self._local.app, raw)
        if body.pop("container", None):
            raise InvalidRequest("'container' is the operator's to choose, in the configuration of the strategy.")
        conversation_id = _uuid(body.get("conversation_id") or str(uuid.uuid4()))
        start = await launch.resolve(launch.observed(body, request.headers), self._stock)
        answer = await self._conversations.creations.create(conversation_id, start, dict(request.query_params))
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    async def search(self, request: Request) -> ASGIApp:
        """List conversations, page by page."""
        query = request.query_params
        limit, order = query.get("limit", "100"), query.get("sort_order", "CREATED_AT_DESC")
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit[:4]) <= 100):
            raise InvalidRequest("'limit' must be 1 to 100.")
        if order.removesuffix("_DESC") not in ("CREATED_AT", "UPDATED_AT"):
            raise InvalidRequest("'sort_order' must be CREATED_AT, UPDATED_AT, CREATED_AT_DESC or UPDATED_AT_DESC.")
        infos = await self._infos(request)
        return JSONResponse(listing.page_of(infos, page_id=query.get("page_id"), limit=int(limit), order=order))

    async def count(self, request: Request) -> ASGIApp:
        """Count conversations."""
        return JSONResponse(len(await self._infos(request)))

    async def batch(self, request: Request) -> ASGIApp:
        """Get conversations by their ids; null for those there are not."""
        wanted = [str(_uuid(value)) for value in request.query_params.getlist("ids")]
        if not wanted or len(wanted) > 99:
            raise InvalidRequest("'ids' must be 1 to 99 conversation ids.")
        known = {str(UUID(info["id"])): info for info in await self._infos(request, filtered=False)}
        return JSONResponse([known.get(conversation_id) for conversation_id in wanted])

    # --- one conversation -------------------------------------------------------------------------------------------

    async def get(self, request: Request, conversation_id: UUID) -> ASGIApp:
        """Return a conversation; one whose loop is stopped, or whose history is lost, as it was last seen."""
        loop = await self._loop(conversation_id)
        entry = self._conversations.entry(conversation_id, loop)
        if entry and loop.url is None:
            return JSONResponse(listing.shown(entry, loop))
        try:
            return await self.proxy(request, conversation_id)
        except LoopFailed as error:
            entry = self._conversations.entry(conversation_id, loop)
            if entry is None or error.reason != Reason.HISTORY_LOST:
                raise
            return JSONResponse(listing.shown(entry, loop))

    async def delete(self, request: Request, conversation_id: UUID) -> ASGIApp:  # noqa: ARG002 - as all of them
        """Remove a conversation with its loop."""
        await self._conversations.remove(conversation_id)
        return JSONResponse({"success": True})

    async def runtime(self, request: Request, conversation_id: UUID) -> ASGIApp:
        """Tell of the loop, or stop it."""
        loop = await self._loop(conversation_id)
        if request.method == "DELETE":
            await self._conversations.release(conversation_id)
            return Response(status_code=204)
        return JSONResponse(listing.runtime_info(loop, self._conversations.entry(conversation_id, loop)))

    async def reprovision(self, request: Request, conversation_id: UUID) -> ASGIApp:
        """Start a stopped loop again."""
        async with self._conversations.open(conversation_id):
            return await self.runtime(request, conversation_id)

    async def credentials(self, request: Request, conversation_id: UUID) -> ASGIApp:  # noqa: ARG002
        """Refuse: nested keys never leave the host."""
        return JSONResponse({"detail": _CREDENTIALS}, 501)

    async def secrets(self, request: Request, conversation_id: UUID) -> ASGIApp:
        """Hand over secrets, those that only this host can look up included."""
        await self._loop(conversation_id)
        body = await launch.resolve_secrets(_object(request, await request.body()))
        return await self.proxy(request, conversation_id, body=body)

    async def switch_profile(self, request: Request, conversation_id: UUID) -> ASGIApp:
        """Switch to a language model that this host has stored; the nested server has no profiles."""
        await self._loop(conversation_id)
        name = str(_object(request, await request.body()).get("profile_name", ""))
        llm = await launch.llm_of_profile(name, self._stock.config)
        path = f"/api/conversations/{conversation_id}/switch_llm"
        return await self.proxy(request, conversation_id, path=path, body={"llm": llm})

    async def derive(self, request: Request, conversation_id: UUID) -> ASGIApp:
        """Make a fork or a child in the same loop, and remember where it lives."""
        loop = await self._loop(conversation_id)
        wanted = _wanted_id(await request.body())
        if wanted and await self._conversations.claims.elsewhere({wanted}, loop):
            return JSONResponse({"detail": f"Conversation {wanted} already exists"}, 409)
        relay = await self.proxy(request, conversation_id)
        if relay.answer.is_success:
            await self._conversations.look(await self._loop(conversation_id))
        return relay

    async def proxy(
        self, request: Request, conversation_id: UUID, *, path: str | None = None, body: dict[str, Any] | None = None
    ) -> Relay:
        """Pass the request on.

        Raises:
            LoopFailed: ``history-lost``: the nested server does not have the conversation any more.
        """
        content = None if body is None else json.dumps(body).encode()
        for pause in (*_PAUSES, None):
            held = contextlib.AsyncExitStack()
            try:
                return await self._pass_on(request, conversation_id, held, path, content)
            except BaseException as error:
                await held.aclose()
                if pause is None or not _may_repeat(error, request):
                    raise
            await asyncio.sleep(pause)
        raise AssertionError

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _pass_on(
        self,
        request: Request,
        conversation_id: UUID,
        held: contextlib.AsyncExitStack,
        path: str | None,
        content: bytes | None,
    ) -> Relay:
        server = await held.enter_async_context(self._conversations.open(conversation_id))
        relay = await forward(request, server, held, path=path, body=content, keys=self._stock.session_keys)
        if relay.answer.status_code == 404:
            await self._conversations.check(conversation_id, server)
        return relay

    async def _loop(self, conversation_id: UUID) -> Loop:
        """The loop of a conversation, before anything is read of a request that may not be a loop's."""
        loop = await self._conversations.find(conversation_id)
        if loop is None:
            raise LoopNotFound(str(conversation_id))
        return loop

    async def _infos(self, request: Request, *, filtered: bool = True) -> Sequence[listing.Info]:
        infos = await listing.every_info(self._conversations)
        if self._local:
            infos += await self._local.infos()
        status = request.query_params.get("status") if filtered else None
        return [info for info in infos if status in (None, info["execution_status"])]


def _may_repeat(error: BaseException, request: Request) -> bool:
    """Nothing of the request was taken, or it may be taken twice."""
    if not isinstance(error, NestedError) or error.reason == Reason.NESTED_TIMEOUT:
        return False
    return error.reason == Reason.NESTED_UNREACHABLE or request.method in _IDEMPOTENT


def _wanted_id(raw: bytes) -> UUID | None:
    """The id that a client chose for a fork; a body that can't be read is the nested server's to refuse."""
    try:
        return UUID(json.loads(raw)["id"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _object(request: Request, raw: bytes) -> dict[str, Any]:
    """Read the JSON object of a body.

    Only of a body that is declared as JSON, as stock does: a browser sends others to any site, without asking it first.

    Raises:
        InvalidRequest: it is none, or nothing that could be sent on as JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/([a-z0-9.-]+\+)?json", kind):
        raise InvalidRequest("The body must be sent with the content type application/json.")
    try:
        body = json.loads(raw)
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # also of NaN, lone surrogates, and more brackets than can be read
        raise InvalidRequest("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _uuid(value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise InvalidRequest(f"A conversation id must be a UUID, not {value!r:.80}.") from None
