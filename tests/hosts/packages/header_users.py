"""Users as a header names them: the app server's own authentication knows no users."""

from openhands.app_server.user.specifiy_user_context import USER_CONTEXT_ATTR, SpecifyUserContext
from openhands.app_server.user.user_context import UserContextInjector


class HeaderUsers(UserContextInjector):
    async def inject(self, state, request=None):
        known = getattr(state, USER_CONTEXT_ATTR, None)
        yield known or SpecifyUserContext(request.headers.get("X-User"))
