"""Users as a cookie names them: the legacy host's own authentication knows no users."""

from http.cookies import SimpleCookie

from openhands.server.user_auth.default_user_auth import DefaultUserAuth
from openhands.storage.conversation.conversation_validator import ConversationValidator


class CookieAuth(DefaultUserAuth):
    _user = None

    async def get_user_id(self):
        return self._user

    @classmethod
    async def get_instance(cls, request):
        auth = cls()
        auth._user = request.cookies.get("user")
        return auth


class CookieValidator(ConversationValidator):
    async def validate(self, conversation_id, cookies_str, authorization_header=None):
        return SimpleCookie(cookies_str)["user"].value
