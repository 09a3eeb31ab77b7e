from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from loopnest import Message, NestedError, ProviderToken
from loopnest_nested.dialects import Place

TOKEN = "ghp-clone-token-0815"


def git(*arguments: str, cwd: Path) -> None:
    own = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    own |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}
    subprocess.run(["git", *arguments], cwd=cwd, env={**os.environ, **own}, check=True, capture_output=True)


@pytest.fixture(scope="session")
def bare_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one file, which differs on the branch ``other``."""
    base = tmp_path_factory.mktemp("git")
    work, bare = base / "work", base / "served" / "acme" / "tools.git"
    git("init", "-b", "main", str(work), cwd=base)
    for branch in ("main", "other"):
        git("checkout", "-B", branch, cwd=work)
        (work / "which.txt").write_text(f"this is {branch}\n")
        git("add", ".", cwd=work)
        git("commit", "-m", branch, cwd=work)
    bare.parent.mkdir(parents=True)
    git("clone", "--bare", str(work), str(bare), cwd=base)
    git("symbolic-ref", "HEAD", "refs/heads/main", cwd=bare)
    return bare


@dataclass
class GitServer:
    url: str
    logins: list[str | None]


@pytest.fixture
def git_server(bare_repository: Path) -> Iterator[GitServer]:
    """``git http-backend`` behind a password."""
    logins: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            header = self.headers.get("Authorization", "")
            logins.append(base64.b64decode(header.split()[1]).decode() if header else None)
            if logins[-1] != f"x-access-token:{TOKEN}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.backend()

        do_POST = do_GET

        def backend(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            environment = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(bare_repository.parents[1]),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            self.send_response(200)
            for line in head.decode().splitlines():
                self.send_header(*line.split(": ", 1))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield GitServer(f"http://127.0.0.1:{server.server_port}", logins)
        server.shutdown()
        thread.join()


def text_of(events) -> str:
    return "\n".join(str(event["observation"]["content"]) for event in events if event["kind"] == "ObservationEvent")


def holders_of(secret: str, *places: Path) -> list[str]:
    files = (file for place in places for file in place.rglob("*") if file.is_file())
    return [str(file) for file in files if secret.encode() in file.read_bytes()]


async def test_the_agent_works_in_a_clone_of_the_branch(driver, bare_repository):
    conversation = await driver.start(
        repository=f"file://{bare_repository}",
        branch="other",
        initial_message=Message(text="run: pwd; cat which.txt; git branch --show-current"),
    )
    seen = text_of(await driver.until_status(conversation, "finished"))
    assert f"{driver.process.place.workspace}/tools" in seen
    assert "this is other" in seen


async def test_a_private_repository_is_cloned_with_the_token_of_its_provider_and_the_token_stays_nowhere(
    new_process, drive, git_server
):
    driver = drive(await asyncio.to_thread(new_process))
    token = ProviderToken(token=SecretStr(TOKEN), host=git_server.url)
    conversation = await driver.start(
        repository="acme/tools",
        provider_tokens={"github": token},
        initial_message=Message(text="run: cat which.txt; git remote get-url origin"),
    )
    events = await driver.until_status(conversation, "finished")
    assert "this is main" in text_of(events)
    assert f"{git_server.url}/acme/tools.git" in text_of(events)
    assert f"x-access-token:{TOKEN}" in git_server.logins
    place = driver.process.place
    assert holders_of(TOKEN, Path(place.workspace), Path(place.data), driver.process.home) == []


async def test_a_token_in_the_url_is_taken_out_of_it(driver, git_server, tmp_path):
    url = git_server.url.replace("http://", f"http://x-access-token:{TOKEN}@")
    place = Place(workspace=str(tmp_path), data=driver.process.place.data)
    request = driver.request(
        repository=f"{url}/acme/tools.git", initial_message=Message(text="run: git remote get-url origin")
    )
    events = await driver.until_status(await driver.ensure(request, place), "finished")
    assert f"{git_server.url}/acme/tools.git" in text_of(events)
    assert holders_of(TOKEN, tmp_path, Path(place.data)) == []


async def test_a_refused_token_is_explained_without_it(driver, git_server):
    token = ProviderToken(token=SecretStr("wrong-token-4711"), host=git_server.url)
    request = driver.request(repository="acme/other", provider_tokens={"github": token})
    with pytest.raises(NestedError) as caught:
        await driver.ensure(request)
    assert caught.value.reason == "clone-failed"
    assert "acme/other" in caught.value.message
    assert "wrong-token-4711" not in caught.value.message
    assert await driver.status(request.conversation_id) is None
    assert list(Path(driver.process.place.data).glob("checkout-*")) == []


async def test_a_repository_that_is_not_there_is_explained(driver, tmp_path):
    with pytest.raises(NestedError, match=r"could not be cloned: .*does not (appear|exist)"):
        await driver.start(repository=f"file://{tmp_path}/nothing.git")
