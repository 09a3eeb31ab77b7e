"""Strategies that run loops where a conversation manager of the host's own runs them, for one: in its process.

Only the host can use them, as a manager is made of the host's own objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from loopnest import (
    Closed,
    ConfigurationError,
    Delivery,
    Event,
    HostContext,
    Loop,
    LoopChange,
    LoopFailed,
    LoopQuery,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
    owner_of,
)
from loopnest_openhands.legacy.current import get_host
from loopnest_openhands.legacy.side import Uploaded

_STANDALONE: Final = (
    "openhands.server.conversation_manager.standalone_conversation_manager.StandaloneConversationManager"
)


class ClassSettings(BaseModel):
    """Settings of the strategy that runs loops in a conversation manager of the legacy host.

    Attributes:
        manager_class: the dotted name of the conversation manager.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manager_class: str


class ClassStrategy:
    """Runs loops by any conversation manager class.

    Attributes:
        manager: the instance, once the strategy is open.
    """

    Settings: type[BaseModel] | None = ClassSettings

    def __init__(self, settings: ClassSettings) -> None:
        self.manager: Any = None
        self._class = settings.manager_class
        self._users: dict[str, str | None] = {}

    @hookimpl
    async def open_strategy(self, context: HostContext) -> None:
        """Build the manager from the host's objects, and enter it."""
        from openhands.server.conversation_manager.conversation_manager import ConversationManager  # noqa: PLC0415 - needs the host
        from openhands.utils.import_utils import get_impl  # noqa: PLC0415 - needs the host

        host = get_host()
        if host is None:
            raise ConfigurationError(
                f"The strategy {context.strategy!r} works in the legacy OpenHands server only, which loads it by "
                "CONVERSATION_MANAGER_CLASS=loopnest_openhands.ConversationManager. Choose another strategy here."
            )
        self._strategy, self._host = context.strategy, host
        manager_class = get_impl(ConversationManager, self._class)
        self.manager = manager_class.get_instance(
            host.sio, host.config, host.file_store, host.server_config, host.monitoring
        )
        await self.manager.__aenter__()

    @hookimpl
    async def close_strategy(self) -> None:
        """Leave the manager; what becomes of its loops is its own affair."""
        if self.manager is not None:
            await self.manager.__aexit__(None, None, None)

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop:
        """Have the manager start it."""
        from loopnest_openhands.legacy import requests  # noqa: PLC0415 - needs the host

        conversation_id, user_id = request.conversation_id, self._host.users.get(request.conversation_id)
        settings, message, replay = requests.to_host(request)
        try:
            info = await self.manager.maybe_start_agent_loop(conversation_id, settings, user_id, message, replay)
        except Exception as error:
            raise LoopFailed(f"The host's manager failed: {type(error).__name__}: {error}") from error
        self._users[conversation_id] = user_id
        return self._loop(info)

    @hookimpl
    async def close_session(self, conversation_id: str, remove: bool) -> Closed:
        """Have the manager close it; the host itself removes what is stored."""
        running = bool(await self.manager.get_running_agent_loops(filter_to_sids={conversation_id}))
        await self.manager.close_session(conversation_id)
        self._users.pop(conversation_id, None)
        return Closed(conversation_id=conversation_id, graceful=running, already=not running, removed=remove)

    @hookimpl
    async def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        """List what the manager runs."""
        sids = set(query.conversation_ids) if query.conversation_ids is not None else None
        running = await self.manager.get_running_agent_loops(filter_to_sids=sids)
        info = await self.manager.get_agent_loop_info(filter_to_sids=running) if running else []
        return [loop for loop in map(self._loop, info) if query.matches(loop)]

    @hookimpl
    async def send_event(self, conversation_id: str, event: Event) -> Delivery:
        """Have the manager deliver it."""
        from loopnest_openhands.legacy import requests  # noqa: PLC0415 - needs the host

        if not await self.manager.get_running_agent_loops(filter_to_sids={conversation_id}):
            raise LoopFailed("The loop does not run. Start it again.", reason=Reason.NOT_RUNNING)
        await self.manager.send_event_to_conversation(conversation_id, requests.to_data(event))
        return Delivery(conversation_id=conversation_id)

    def _loop(self, info: Any) -> Loop:
        starting = info.status.value == "STARTING"
        return Loop(
            conversation_id=info.conversation_id,
            owner=owner_of(self._users.get(info.conversation_id)),
            status=LoopStatus.STARTING if starting else LoopStatus.RUNNING,
            strategy=self._strategy,
        )


class StandaloneStrategy(ClassStrategy):
    """Runs loops in the host's own process, as the host does by itself."""

    Settings = None

    def __init__(self) -> None:
        super().__init__(ClassSettings(manager_class=_STANDALONE))


class InProcessSide:
    """The manager's own interactive half. See `Side`."""

    starts_at_once = True

    def __init__(self, strategy: ClassStrategy, file_store: Any) -> None:
        self.file_store = file_store
        self._strategy = strategy
        self._users: dict[str, str | None] = {}
        self._connections: dict[str, str] = {}

    @property
    def _manager(self) -> Any:
        return self._strategy.manager

    async def open(self) -> None:
        """See `Side`."""

    async def aclose(self) -> None:
        """See `Side`."""

    def remember(self, conversation_id: str, user_id: str | None) -> None:
        """See `Side`."""
        self._users[conversation_id] = user_id

    def user_of(self, conversation_id: str) -> str | None:
        """See `Side`."""
        return self._users.get(conversation_id)

    async def join(self, conversation_id: str, connection_id: str, settings: Any, user_id: str | None) -> None:
        """See `Side`."""
        self._connections[connection_id] = conversation_id
        await self._manager.join_conversation(conversation_id, connection_id, settings, user_id)

    async def leave(self, connection_id: str) -> None:
        """See `Side`."""
        self._connections.pop(connection_id, None)
        await self._manager.disconnect_from_session(connection_id)

    async def expel(self, conversation_id: str) -> None:
        """See `Side`."""

    def connections(self) -> dict[str, str]:
        """See `Side`."""
        return dict(self._connections)

    def changed(self, change: LoopChange) -> None:
        """See `Side`."""

    async def describe(self, loops: Sequence[Loop], user_id: str | None) -> list[Any]:
        """See `Side`."""
        from loopnest_openhands.legacy import info  # noqa: PLC0415 - needs the host

        sids = {loop.conversation_id for loop in loops}
        found = await self._manager.get_agent_loop_info(filter_to_sids=sids) if sids else []
        known = {it.conversation_id: it for it in found}
        return [known.get(loop.conversation_id) or info.describe(loop, user_id) for loop in loops]

    async def attach(self, conversation_id: str, user_id: str | None) -> Any:
        """See `Side`."""
        return await self._manager.attach_to_conversation(conversation_id, user_id)

    async def detach(self, conversation: Any) -> None:
        """See `Side`."""
        await self._manager.detach_from_conversation(conversation)

    def agent_session(self, conversation_id: str) -> Any:
        """See `Side`."""
        return self._manager.get_agent_session(conversation_id)

    async def complete(self, conversation_id: str, service_id: str, llm_config: Any, messages: list[Any]) -> str:
        """See `Side`."""
        return str(await self._manager.request_llm_completion(conversation_id, service_id, llm_config, messages))

    async def list_files(self, conversation_id: str, path: str | None) -> list[str]:
        """See `Side`."""
        files: list[str] = await self._manager.list_files(conversation_id, path)
        return files

    async def select_file(self, conversation_id: str, file: str) -> tuple[str | None, str | None]:
        """See `Side`."""
        selected: tuple[str | None, str | None] = await self._manager.select_file(conversation_id, file)
        return selected

    async def upload_files(self, conversation_id: str, uploads: list[tuple[str, bytes]]) -> Uploaded:
        """See `Side`."""
        uploaded: Uploaded = await self._manager.upload_files(conversation_id, uploads)
        return uploaded
