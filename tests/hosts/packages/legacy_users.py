"""A host with users, as operators make one: a cookie names them, and each has conversations of their own."""

from http.cookies import SimpleCookie

from openhands.server.user_auth.default_user_auth import DefaultUserAuth
from openhands.storage import get_file_store
from openhands.storage.conversation.conversation_validator import ConversationValidator
from openhands.storage.conversation.file_conversation_store import FileConversationStore
from openhands.storage.locations import get_conversation_metadata_filename


class CookieAuth(DefaultUserAuth):
    _user = None

    async def get_user_id(self):
        return self._user

    @classmethod
    async def get_instance(cls, request):
        auth = cls()
        auth._user = request.cookies.get("user")
        return auth


class OwnConversations(FileConversationStore):
    _user = None

    def get_conversation_metadata_dir(self):
        return f"users/{self._user}/conversations"

    def get_conversation_metadata_filename(self, conversation_id):
        return get_conversation_metadata_filename(conversation_id, self._user)

    @classmethod
    async def get_instance(cls, config, user_id):
        store = cls(get_file_store(config.file_store, config.file_store_path))
        store._user = user_id
        return store


class CookieValidator(ConversationValidator):
    async def validate(self, conversation_id, cookies_str, authorization_header=None):
        return SimpleCookie(cookies_str)["user"].value
