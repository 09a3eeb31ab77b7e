"""The configuration of a host with users. Alone, as what it names can't be imported before the host has read it."""

from openhands.server.config.server_config import ServerConfig


class WithUsers(ServerConfig):
    user_auth_class = "legacy_users.CookieAuth"
    conversation_store_class = "legacy_users.OwnConversations"

    def verify_config(self):
        """The host's own refuses every class but itself."""
