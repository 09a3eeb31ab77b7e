"""What callers may pass to loopnest, and the errors for what they may not."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from loopnest.errors import InvalidRequest

_M = TypeVar("_M", bound=BaseModel)
_CONVERSATION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

ConversationId = Annotated[str, StringConstraints(pattern=rf"^{_CONVERSATION_ID.pattern}$")]


class StrEnum(str, enum.Enum):
    """`enum.StrEnum`, which Python 3.10 lacks."""

    __str__ = str.__str__


def is_conversation_id(given: object) -> bool:
    """Whether a conversation may have this id: it is part of paths, of containers' names and of labels."""
    return isinstance(given, str) and _CONVERSATION_ID.fullmatch(given) is not None


def check_conversation_id(given: object) -> None:
    """Let pass what may be the id of a conversation.

    Raises:
        InvalidRequest: it may not.
    """
    if not is_conversation_id(given):
        raise InvalidRequest(
            f"'conversation_id' must be 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit, "
            f"not {given!r:.80}."
        )


def _named_like_a_variable(name: str) -> str:
    if not _VARIABLE_NAME.fullmatch(name):
        words = "{name} is no name of a variable: use letters, digits and '_', and no digit first"
        raise PydanticCustomError("variable_name", words, {"name": repr(name)})
    return name


#: Of an environment variable, as shells take it: nested servers may be started by one.
VariableName = Annotated[str, AfterValidator(_named_like_a_variable)]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


#: A path on this machine: ``~`` is the user's home, and a relative one begins where the program was started. It is made
#: absolute at once, as nested servers run in directories of their own.
LocalPath = Annotated[Path, AfterValidator(_absolute)]


def made(model: type[_M], /, **values: Any) -> _M:
    """Build a model of the contract from a caller's values.

    Raises:
        InvalidRequest: names what is wrong with which field.
    """
    try:
        return model(**values)
    except ValidationError as error:
        problems = (f"'{field_of(problem['loc'])}': {problem['msg']}" for problem in error.errors())
        raise InvalidRequest("; ".join(problems) + ".") from None


def field_of(place: tuple[int | str, ...]) -> str:
    """The dotted name of what pydantic complains about; of a key in a table, it says ``[key]`` after the key."""
    return ".".join(str(part) for part in place if part != "[key]")
