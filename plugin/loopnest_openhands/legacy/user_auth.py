"""Stands in front of the host's configured ``user_auth_class``. Imported when the host serves its first request."""

from __future__ import annotations

from typing import Any

from openhands.server.user_auth.user_auth import UserAuth
from openhands.utils.import_utils import get_impl

from loopnest_openhands.legacy import users


class NotedUserAuth(UserAuth):
    """Builds what the host's configuration names; never an instance of itself."""

    @classmethod
    async def get_instance(cls, request: Any) -> Any:
        """Build the configured class for ``request``, and note its user."""
        auth = await get_impl(UserAuth, users.configured_class()).get_instance(request)
        users.note(await auth.get_user_id() if auth else None)
        return auth

    @classmethod
    async def get_for_user(cls, user_id: str) -> Any:
        """Build the configured class for ``user_id``."""
        return await get_impl(UserAuth, users.configured_class()).get_for_user(user_id)
