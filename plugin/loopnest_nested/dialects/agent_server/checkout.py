"""Clones a repository into the workspace, before the agent starts.

The token of the git provider is put into a file that only the nested server's user can read, git is told to ask a
helper for it, and the file goes when git ends: so it is in no command line, no URL, no configuration and no log.
"""

from __future__ import annotations

import io
import posixpath
import re
import secrets
import shlex
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from loopnest import Conversation, NestedError, Reason
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Place
from loopnest_nested.redaction import redacted

#: The reason code of a repository that can't be cloned.
#: Seconds for a clone.
CLONE_LIMIT: Final = 600
_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)+")
_HOME: Final = {
    "github": "https://github.com",
    "gitlab": "https://gitlab.com",
    "bitbucket": "https://bitbucket.org",
    "azure_devops": "https://dev.azure.com",
    "forgejo": "https://codeberg.org",
}
#: Who the owner of a token is for git; the others take any name.
_USER: Final = {"github": "x-access-token", "bitbucket": "x-token-auth"}

_SCRIPT: Final = """\
have() {{ [ "$(git -C {dest} remote get-url origin 2>/dev/null)" = {url} ]; }}
clean() {{ rm -rf -- {fresh} {private}; }}
trap clean EXIT; trap 'exit 143' INT TERM
have && exit 0
rmdir -- {dest} 2>/dev/null
if [ -e {dest} ]; then
  have && exit 0  # another script's clone, moved there since the first look
  echo {dest} is in the way: it is there, and no clone of this repository >&2; exit 1
fi
GIT_TERMINAL_PROMPT=0 git {options} clone --quiet {branch} -- {url} {fresh} </dev/null || {{ have; exit; }}
[ -e {dest} ] || mv -- {fresh} {dest}
rm -rf -- {dest}/{inner}
have
"""


@dataclass(frozen=True)
class Repository:
    """A repository to clone.

    Attributes:
        url: without user and password.
        directory: what it is called in the workspace.
        login: who git is, and its password, where one is known for exactly this server.
    """

    url: str
    directory: str
    login: tuple[str, SecretStr] | None = None

    @property
    def server(self) -> str:
        """The part of the URL that the login is for."""
        split = urlsplit(self.url)
        return f"{split.scheme}://{split.netloc}"


def repository_of(conversation: Conversation) -> Repository | None:
    """Understand what the request says about a repository.

    Raises:
        NestedError: ``clone-failed``: it can't be understood.
    """
    if conversation.repository is None:
        if conversation.branch:
            raise _failed("'branch' says which branch of 'repository' to clone, and there is no 'repository'.")
        return None
    provider = _provider(conversation)
    url = conversation.repository
    if _NAME.fullmatch(url):
        url = f"{_home(conversation, provider)}/{url}.git"
    directory = posixpath.basename(url.rstrip("/").replace(":", "/")).removesuffix(".git")
    if directory in {"", ".", ".."} or url.startswith("-"):
        raise _failed(f"'repository' must be owner/name or a URL, not {redacted(url, _userinfo(url))!r}.")
    return _with_login(conversation, url, directory, provider)


async def check_out(server: NestedServer, conversation: Conversation, place: Place) -> str:
    """Clone what the request names, unless that was done before, and return the directory to work in.

    Raises:
        NestedError: ``clone-failed``, or the server could not be conversation.
    """
    repository = repository_of(conversation)
    if repository is None:
        return place.workspace
    destination = posixpath.join(place.workspace, repository.directory)
    private = f"{place.data}/checkout-{secrets.token_hex(8)}"
    if repository.login:
        await _store_login(server, repository.login, private)
    script = clone_script(repository, conversation.branch, destination, private)
    output = await _run(server, script, CLONE_LIMIT)
    if output.get("exit_code") != 0:
        why = redacted(str(output.get("stderr") or "it took too long"), server.secrets).strip()[-400:]
        hint = " No provider token is for its server." if repository.url[:4] == "http" and not repository.login else ""
        raise _failed(f"{repository.url} could not be cloned: {why}{hint}")
    return destination


def clone_script(repository: Repository, branch: str | None, destination: str, private: str) -> str:
    """Write the shell script that clones beside ``destination`` and then moves, so that it exists whole or not at all.

    Of several that run at once the first one's clone is kept.
    """
    inner = f".loopnest-{secrets.token_hex(8)}"
    return _SCRIPT.format(
        dest=shlex.quote(destination),
        fresh=shlex.quote(posixpath.join(posixpath.dirname(destination), inner)),
        inner=inner,
        private=shlex.quote(private),
        options=_options(repository, private),
        branch=f"--branch {shlex.quote(branch)}" if branch else "",
        url=shlex.quote(repository.url),
    )


def _options(repository: Repository, private: str) -> str:
    if not repository.login:
        return ""
    # The empty helper drops those of the user's own configuration, which might store the password somewhere.
    helper = f'!f() {{ test "$1" = get && cat {shlex.quote(f"{private}/login")}; }}; f'
    own = f"credential.{repository.server}.helper={helper}"
    return f"-c credential.helper= -c {shlex.quote(own)}"


async def _store_login(server: NestedServer, login: tuple[str, SecretStr], private: str) -> None:
    user, password = login
    content = f"username={user}\npassword={password.get_secret_value()}\n"
    forgotten = f"find {shlex.quote(posixpath.dirname(private))} -maxdepth 1 -name 'checkout-*' -mmin +60"
    made = await _run(server, f"umask 077; {forgotten} -exec rm -rf -- {{}} +; mkdir -p -- {shlex.quote(private)}", 30)
    if made.get("exit_code") != 0:
        raise _failed(f"{private} can't be made: {made.get('stderr')}")
    file = {"file": ("login", io.BytesIO(content.encode()))}
    await server.request("POST", "/api/file/upload", params={"path": f"{private}/login"}, files=file)


async def _run(server: NestedServer, script: str, limit: int) -> dict[str, Any]:
    body = {"command": script, "timeout": limit}
    answer = await server.request("POST", "/api/bash/execute_bash_command", json=body, timeout=limit + 15)
    return answer if isinstance(answer, dict) else {}


def _provider(conversation: Conversation) -> str:
    if conversation.git_provider:
        return conversation.git_provider
    names = list(conversation.provider_tokens)
    return names[0] if len(names) == 1 else "github"


def _home(conversation: Conversation, provider: str) -> str:
    """The base URL of a provider.

    Raises:
        NestedError: ``clone-failed``: neither the request nor a known provider gives its address.
    """
    token = conversation.provider_tokens.get(provider)
    host = token.host if token and token.host else _HOME.get(provider)
    if not host:
        raise _failed(f"Where is {provider!r}? Give 'repository' as a URL, or its provider token a 'host'.")
    return host.rstrip("/") if "://" in host else f"https://{host.rstrip('/')}"


def _with_login(conversation: Conversation, url: str, directory: str, provider: str) -> Repository:
    """Take user and password out of the URL, or the token of the provider at this very server."""
    try:
        split = urlsplit(url)
        if split.scheme not in {"http", "https"}:
            return Repository(url, directory)
        clean = split._replace(netloc=split.netloc.rpartition("@")[2].lower())
        login = _login_in(split, _token_login(conversation, provider, clean))
    except ValueError:
        raise _failed("'repository' is not a URL.") from None
    if login and not all(part.isprintable() for part in (login[0], login[1].get_secret_value())):
        raise _failed("The login for 'repository' contains characters that git can't read.")
    return Repository(clean.geturl(), directory, login)


def _login_in(url: SplitResult, of_token: tuple[str, SecretStr] | None) -> tuple[str, SecretStr] | None:
    """Prefer what the URL itself says; a lone user in it may be a token too, as some providers take either."""
    if url.username is None:
        return of_token
    if url.password is None and of_token:
        return unquote(url.username), of_token[1]
    return unquote(url.username), SecretStr(unquote(url.password or ""))


def _token_login(conversation: Conversation, preferred: str, url: SplitResult) -> tuple[str, SecretStr] | None:
    for provider in sorted(conversation.provider_tokens, key=lambda name: name != preferred):
        token, host = conversation.provider_tokens[provider].token, conversation.provider_tokens[provider].host
        if (host or provider in _HOME) and urlsplit(_home(conversation, provider).lower())[:2] == url[:2]:
            return _split_token(token) if provider == "bitbucket" else (_USER.get(provider, "oauth2"), token)
    return None


def _split_token(token: SecretStr) -> tuple[str, SecretStr]:
    """Bitbucket's app passwords come with their user's name: ``user:password``."""
    user, colon, password = token.get_secret_value().partition(":")
    return (user, SecretStr(password)) if colon else (_USER["bitbucket"], token)


def _userinfo(url: str) -> tuple[SecretStr, ...]:
    return (SecretStr(url.rpartition("@")[0]),) if "@" in url else ()


def _failed(message: str) -> NestedError:
    return NestedError(message, reason=Reason.CLONE_FAILED)
