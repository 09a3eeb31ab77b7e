"""Who a sandbox was made for, sealed: user ids may be e-mail addresses, and a loop's notes are public on the engine."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr


class Owners:
    """Seals user ids under the host's secret, so that only replicas of the host can read them."""

    def __init__(self, secret: SecretStr) -> None:
        key = hmac.new(secret.get_secret_value().encode(), b"loopnest:app-server:owner", hashlib.sha256).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(key))
        self._read: dict[str, str] = {}

    def seal(self, user_id: str) -> str:
        """Return what to note for ``user_id``."""
        return str(self._fernet.encrypt(user_id.encode()).decode())

    def read(self, sealed: str | None) -> str | None:
        """Return the user id; None where there is none, or where a host with another secret sealed it."""
        if sealed is None:
            return None
        if sealed not in self._read:
            try:
                self._read[sealed] = self._fernet.decrypt(sealed.encode()).decode()
            except InvalidToken:
                return None
        return self._read[sealed]
