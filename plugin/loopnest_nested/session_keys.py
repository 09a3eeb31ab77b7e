"""Keys derived for each nested server, so that none is ever stored and none is shared.

HMAC-SHA256 of a server's random nonce under the host's secret: any replica of the host derives the same key from what
the engine stores; the nonce without the secret does not reveal the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True)
class Keys:
    """The keys of one nested server.

    Attributes:
        session: what clients show in ``X-Session-API-Key``.
        at_rest: what the server encrypts its stored secrets with.
    """

    session: SecretStr
    at_rest: SecretStr


def new_nonce() -> str:
    """Return a fresh nonce: 128 random bits in 32 hex digits; not a secret."""
    return secrets.token_hex(16)


def derive(secret: SecretStr, nonce: str) -> Keys:
    """Derive the keys of the server with this ``nonce``."""
    return Keys(_derived(secret, "session", nonce), _derived(secret, "at-rest", nonce))


def fingerprint(secret: SecretStr) -> str:
    """Return 8 hex digits that show whether two hosts have the same secret, and nothing else about it."""
    return hmac.new(_bytes(secret), b"loopnest:fingerprint", hashlib.sha256).hexdigest()[:8]


def _derived(secret: SecretStr, purpose: str, nonce: str) -> SecretStr:
    digest = hmac.new(_bytes(secret), f"loopnest:{purpose}:{nonce}".encode(), hashlib.sha256).digest()
    return SecretStr(base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


def _bytes(secret: SecretStr) -> bytes:
    return secret.get_secret_value().encode()
