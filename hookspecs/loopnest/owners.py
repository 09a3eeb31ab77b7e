"""Whose a loop is: users as the host authenticated them, and what stands for them where others can read it."""

from __future__ import annotations

import enum
import hashlib
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from loopnest.errors import InvalidRequest

#: The owner of a loop that was started for no user (single-user hosts).
NOBODY: Final = "nobody"

#: Strict, as pydantic takes an enumeration for a string otherwise, and so `EVERYONE` for a user.
LONGEST_USER_ID: Final = 255
NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_USER_ID, strict=True)]


class Everyone(enum.Enum):
    """The type of `EVERYONE`, which stands for all users where a user id is expected."""

    EVERYONE = "everyone"


#: For operators (the command line, the keeper): act on loops of any owner. A host that serves users never passes it.
EVERYONE: Final = Everyone.EVERYONE
#: A user id as the host authenticated it; None on hosts without users; `EVERYONE` for operators.
UserScope = NonEmpty | Annotated[Everyone, Field(strict=True)] | None


def owner_of(user_id: str | None) -> str:
    """Return what stands for ``user_id`` in names and listings: 16 hex digits, or `NOBODY`.

    A digest, because user ids are often e-mail addresses and container names are public on the engine.
    """
    if user_id is None:
        return NOBODY
    return hashlib.sha256(f"loopnest-owner:{user_id}".encode()).hexdigest()[:16]


def owns(user_id: str | Everyone | None, owner: str) -> bool:
    """Whether ``user_id`` may see and drive a loop of ``owner``."""
    return isinstance(user_id, Everyone) or owner_of(user_id) == owner


def new_owner(user_id: str | Everyone | None) -> str:
    """Return the owner of a loop that ``user_id`` starts.

    Raises:
        InvalidRequest: it is malformed, or stands for all users.
    """
    if user_id is not None and (not isinstance(user_id, str) or not 1 <= len(user_id) <= LONGEST_USER_ID):
        raise InvalidRequest(f"'user_id' must be a text of 1 to {LONGEST_USER_ID} characters, or None.")
    return owner_of(user_id)
