"""The configuration of a host with users; not its authentication, which needs this to be imported before."""

from openhands.server.config.server_config import ServerConfig
from openhands.storage import get_file_store
from openhands.storage.conversation.file_conversation_store import FileConversationStore
from openhands.storage.locations import get_conversation_metadata_filename


class WithUsers(ServerConfig):
    user_auth_class = "legacy_users.CookieAuth"
    conversation_store_class = "legacy_config.OwnConversations"

    def verify_config(self):
        """The host's own refuses every class but itself."""


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
