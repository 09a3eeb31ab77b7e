"""Everything loopnest raises on purpose.

::

    LoopnestError
    ├── ConfigurationError          the host must not start: a setting or a plugin is wrong
    │   ├── UnknownPlugin           no installed distribution offers the name
    │   ├── AmbiguousPlugin         several distributions offer the same name
    │   ├── BrokenPlugin            the plugin failed to import or to be built
    │   └── IllFittingPlugin        the plugin does not fit the hook specifications
    ├── InvalidRequest              an argument is malformed; nothing was done
    ├── LoopNotFound                no such loop, or another user owns it: the two look alike
    ├── QuotaExceeded               the user has as many loops as the configuration allows
    ├── LoopFailed                  the loop could not be started, or died
    ├── EngineError                 the engine could not be asked, or refused
    ├── NestedError                 the nested server could not be asked, or refused
    └── HookTimeout                 a plugin did not answer within the configured time

Each error has a stable ``reason`` (see `Reason`): the same string in exceptions, listings, logs and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final


class Reason:
    """The stable reason codes; ``docs/errors.md`` explains each. A strategy may have more, in kebab case."""

    CONFIGURATION: Final = "configuration"
    INVALID_REQUEST: Final = "invalid-request"
    NOT_FOUND: Final = "not-found"
    QUOTA: Final = "quota"
    HOOK_TIMEOUT: Final = "hook-timeout"
    NO_ANSWER: Final = "no-answer"
    UNSUPPORTED: Final = "unsupported"
    INTERNAL: Final = "internal"

    ENGINE_UNREACHABLE: Final = "engine-unreachable"
    ENGINE_TIMEOUT: Final = "engine-timeout"
    ENGINE_REFUSED: Final = "engine-refused"
    ENGINE_FULL: Final = "engine-full"
    IMAGE_MISSING: Final = "image-missing"
    IMAGE_PULL_FAILED: Final = "image-pull-failed"
    IMAGE_BUILD_FAILED: Final = "image-build-failed"
    ISOLATION_FAILED: Final = "isolation-failed"

    EXITED_EARLY: Final = "exited-early"
    EXITED: Final = "exited"
    KILLED: Final = "killed"
    OOM_KILLED: Final = "oom-killed"
    START_TIMEOUT: Final = "start-timeout"
    SERVER_MISSING: Final = "server-missing"
    INTERRUPTED: Final = "interrupted"
    HISTORY_LOST: Final = "history-lost"
    MOUNT_MISSING: Final = "mount-missing"
    FOREIGN_SECRET: Final = "foreign-secret"  # noqa: S105 - a code, no secret

    NESTED_UNREACHABLE: Final = "nested-unreachable"
    NESTED_TIMEOUT: Final = "nested-timeout"
    NESTED_REFUSED: Final = "nested-refused"
    NESTED_MALFORMED: Final = "nested-malformed"
    CLONE_FAILED: Final = "clone-failed"
    NOT_RUNNING: Final = "not-running"


class LoopnestError(Exception):
    """Base of all errors of loopnest.

    Args:
        message: one or two sentences for a person; never contains a secret.
        reason: the stable code.
        conversation_id: the conversation concerned, where there is one.
    """

    reason: str = Reason.INTERNAL

    def __init__(self, message: str, *, reason: str | None = None, conversation_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.conversation_id = conversation_id


class ConfigurationError(LoopnestError):
    """A setting, or a plugin that a setting names, can't be used."""

    reason = Reason.CONFIGURATION


class UnknownPlugin(ConfigurationError):
    """No installed distribution offers the name."""


class AmbiguousPlugin(ConfigurationError):
    """Several installed distributions offer the same name."""


class BrokenPlugin(ConfigurationError):
    """The plugin is installed but fails to import or to be built."""


class IllFittingPlugin(ConfigurationError):
    """The plugin does not fit the hook specifications."""


class InvalidRequest(LoopnestError):
    """An argument is malformed. The message names the field."""

    reason = Reason.INVALID_REQUEST


class LoopNotFound(LoopnestError):
    """The loop does not exist, or the user does not own it; the error never says which."""

    reason = Reason.NOT_FOUND

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"No loop for conversation {conversation_id!r}.", conversation_id=conversation_id)


class QuotaExceeded(LoopnestError):
    """The user has as many running loops as the configuration allows."""

    reason = Reason.QUOTA


class LoopFailed(LoopnestError):
    """The loop could not be started, or it died.

    Args:
        exit_code: of the nested server's process, where it ended.
        log_tail: its last log lines, oldest first, where there are any.
    """

    reason = Reason.EXITED_EARLY

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        conversation_id: str | None = None,
        exit_code: int | None = None,
        log_tail: Sequence[str] = (),
    ) -> None:
        super().__init__(message, reason=reason, conversation_id=conversation_id)
        self.exit_code = exit_code
        self.log_tail = tuple(log_tail)


class EngineError(LoopnestError):
    """The engine could not be asked, did not answer in time, or refused."""

    reason = Reason.ENGINE_REFUSED


class NestedError(LoopnestError):
    """The nested server could not be asked, did not answer in time, or refused.

    Args:
        http_status: of its answer, where there was one.
    """

    reason = Reason.NESTED_REFUSED

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        conversation_id: str | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message, reason=reason, conversation_id=conversation_id)
        self.http_status = http_status


class HookTimeout(LoopnestError):
    """A plugin did not answer within the configured time."""

    reason = Reason.HOOK_TIMEOUT
