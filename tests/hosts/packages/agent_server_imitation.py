"""An imitation of the installed agent server: as much of its modules as the host reads, under the same names.

Tests build the host from it in milliseconds and without OpenHands. `agent_server_comparison` compares it with the real
modules of every tested release.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

NEWEST = "1.58.0"
PACKAGE = "openhands.agent_server"


class WebhookSpec(BaseModel):
    base_url: str
    headers: dict[str, str] = {}
    flush_delay: float = 30.0


class OldConfig(BaseModel):
    """The configuration before 1.57."""

    session_api_keys: list[str] = ["outer-key"]
    deferred_init: bool = False
    conversation_runtime: str = "local"
    conversation_idle_ttl_seconds: float | None = 60.0
    webhooks: list[WebhookSpec] = []


class NewConfig(OldConfig):
    """The configuration from 1.57 on."""

    conversation_runtime_selectable: bool = False


class AgentContext(BaseModel):
    load_memory: bool = False


class AgentSettings(BaseModel):
    agent_context: AgentContext = AgentContext()


class PersistedSettings(BaseModel):
    agent_settings: AgentSettings = AgentSettings()


#: Settings that let every agent load its memory.
REMEMBERING = PersistedSettings(agent_settings=AgentSettings(agent_context=AgentContext(load_memory=True)))


class FileSettingsStore:
    """Has no settings stored until a test stores some."""

    def __init__(self) -> None:
        self._stored: PersistedSettings | None = None

    def load(self) -> PersistedSettings | None:
        return self._stored


class StartConversationRequest(BaseModel):
    conversation_id: UUID | None = None


class ConversationService:
    """Knows no conversation."""

    async def get_event_service(self, conversation_id: UUID) -> Any:
        return None


def get_conversation_service(request: Request) -> ConversationService:
    return ConversationService()


class AgentServer:
    """One release of the agent server, to be installed into `sys.modules`.

    Attributes:
        built: the configuration of each application that was created.
        config: the class of its configuration.
        modules: its modules by their full names.
    """

    def __init__(self, release: str = NEWEST) -> None:
        self.release = release
        self.built: list[OldConfig] = []
        self._store = FileSettingsStore()
        minor = int(release.split(".")[1])
        self.config = NewConfig if minor >= 57 else OldConfig
        contents: dict[str, dict[str, Any]] = {
            "api": {"create_app": self._create_app},
            "config": {"Config": self.config, "WebhookSpec": WebhookSpec, "get_default_config": self._default_config},
            "conversation_service": {"ConversationService": ConversationService},
            "dependencies": {"get_conversation_service": get_conversation_service},
            "docker_runtime.registry": {},
            "models": {"StartConversationRequest": StartConversationRequest},
            "persistence": {
                "FileSettingsStore": FileSettingsStore,
                "PersistedSettings": PersistedSettings,
                "get_settings_store": self._get_settings_store,
            },
        }
        if minor >= 58:
            names = ("LMNR_BASE_URL", "LMNR_PROJECT_API_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT")
            contents["docker_runtime.registry"]["_OBSERVABILITY_ENV_VARS"] = names
        self.modules = {f"{PACKAGE}.{name}": _module(name, its) for name, its in contents.items()}

    def store(self, settings: PersistedSettings) -> None:
        """Store settings, as ``PATCH /api/settings`` does."""
        self._store._stored = settings

    def _create_app(self, config: OldConfig) -> Starlette:
        self.built.append(config)
        app = Starlette(routes=_routes())
        app.dependency_overrides = {}  # type: ignore[attr-defined]  # FastAPI's
        app.state.config = config
        return app

    def _default_config(self) -> OldConfig:
        return self.config()

    def _get_settings_store(self, config: OldConfig | None = None) -> FileSettingsStore:
        return self._store


def _module(name: str, contents: dict[str, Any]) -> ModuleType:
    module = ModuleType(f"{PACKAGE}.{name}")
    vars(module).update(contents)
    return module


def _routes() -> list[Route]:
    return [
        Route("/v1/chat/completions", _chat, methods=["POST"]),
        Route("/api/conversations/search", _search),
        Route("/api/conversations", _create, methods=["POST"]),
        Route("/{path:path}", _other, methods=["GET", "POST", "DELETE"]),
    ]


async def _other(request: Request) -> Response:
    return JSONResponse({"stock": request.url.path})


async def _search(request: Request) -> Response:
    """One local conversation, for clients with a key."""
    assert request.headers["x-session-api-key"] in request.app.state.config.session_api_keys
    times = dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z")
    info = {"id": "00000000-0000-4000-8000-000000000000", "execution_status": "idle", **times}
    return JSONResponse({"items": [info], "next_page_id": None})


async def _create(request: Request) -> Response:
    return JSONResponse({"local": await request.json()}, 201)


async def _chat(request: Request) -> Response:
    """Start a conversation with what the dependency gives, or read the last words of one that it knows."""
    start = StartConversationRequest.model_validate(await request.json())
    service = request.app.dependency_overrides[get_conversation_service](request)
    known = await service.get_event_service(start.conversation_id)
    if known is None:
        info, _ = await service.start_conversation(start)
        return JSONResponse({"started": str(info.id)})
    return JSONResponse({"said": await known.get_agent_final_response()})
