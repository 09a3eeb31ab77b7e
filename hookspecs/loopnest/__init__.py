"""The contract between agent servers and strategies that run their agent loops."""

from loopnest._markers import CONTRACT_VERSION, async_wrapper, hookimpl, hookspec
from loopnest._pluggy import AsyncPluginManager
from loopnest.capabilities import Capability
from loopnest.errors import (
    AmbiguousPlugin,
    BrokenPlugin,
    ConfigurationError,
    EngineError,
    HookTimeout,
    IllFittingPlugin,
    InvalidRequest,
    LoopFailed,
    LoopnestError,
    LoopNotFound,
    NestedError,
    QuotaExceeded,
    Reason,
    UnknownPlugin,
)
from loopnest.manager import LoopManager
from loopnest.models import Closed, Delivery, Finding, Loop, LoopChange, LoopQuery, LoopStatus, Phase
from loopnest.owners import EVERYONE, NOBODY, Everyone, owner_of
from loopnest.requests import Control, Conversation, Event, Llm, Message, ProviderToken, RawEvent, Secret, StartLoop
from loopnest.settings import LoopnestSettings
from loopnest.specs import HostContext

__all__ = [
    "CONTRACT_VERSION",
    "EVERYONE",
    "NOBODY",
    "AmbiguousPlugin",
    "AsyncPluginManager",
    "BrokenPlugin",
    "Capability",
    "Closed",
    "ConfigurationError",
    "Control",
    "Conversation",
    "Delivery",
    "EngineError",
    "Event",
    "Everyone",
    "Finding",
    "HookTimeout",
    "HostContext",
    "IllFittingPlugin",
    "InvalidRequest",
    "Llm",
    "Loop",
    "LoopChange",
    "LoopFailed",
    "LoopManager",
    "LoopNotFound",
    "LoopQuery",
    "LoopStatus",
    "LoopnestError",
    "LoopnestSettings",
    "Message",
    "NestedError",
    "Phase",
    "ProviderToken",
    "QuotaExceeded",
    "RawEvent",
    "Reason",
    "Secret",
    "StartLoop",
    "UnknownPlugin",
    "async_wrapper",
    "hookimpl",
    "hookspec",
    "owner_of",
]
