from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from loopnest import Conversation, NestedError, ProviderToken, StartLoop
from loopnest_nested.dialects import Place
from loopnest_nested.dialects.agent_server.checkout import Repository, check_out, clone_script, repository_of
from loopnest_nested.redaction import secrets_of

PLACE = Place(workspace="/work", data="/data")
GITHUB = {"github": ProviderToken(token=SecretStr("gh-token"))}


def understood(repository: str, **facts) -> tuple[str, str, tuple[str, str] | None]:
    found = repository_of(Conversation(repository=repository, **facts))
    assert found
    login = (found.login[0], found.login[1].get_secret_value()) if found.login else None
    return found.url, found.directory, login


def tokens(**given: tuple[str, str | None]) -> dict[str, ProviderToken]:
    return {name: ProviderToken(token=SecretStr(token), host=host) for name, (token, host) in given.items()}


@pytest.mark.parametrize(
    ("repository", "facts", "expected"),
    [
        ("a/b", {}, ("https://github.com/a/b.git", "b", None)),
        ("a/b", {"provider_tokens": GITHUB}, ("https://github.com/a/b.git", "b", ("x-access-token", "gh-token"))),
        ("a/b", {"git_provider": "gitlab"}, ("https://gitlab.com/a/b.git", "b", None)),
        (
            "group/sub/b",
            {"provider_tokens": tokens(gitlab=("t", "git.example.org"))},
            ("https://git.example.org/group/sub/b.git", "b", ("oauth2", "t")),
        ),
        (
            "a/b",
            {"provider_tokens": tokens(bitbucket=("me:app", None))},
            ("https://bitbucket.org/a/b.git", "b", ("me", "app")),
        ),
        (
            "a/b",
            {"provider_tokens": tokens(bitbucket=("t", None))},
            ("https://bitbucket.org/a/b.git", "b", ("x-token-auth", "t")),
        ),
        (
            "a/b",
            {"provider_tokens": tokens(gitlab=("gl", None), github=("gh", None))},
            ("https://github.com/a/b.git", "b", ("x-access-token", "gh")),
        ),
        (
            "https://GitLab.com/a/b",
            {"provider_tokens": tokens(gitlab=("gl", None), github=("gh", None))},
            ("https://gitlab.com/a/b", "b", ("oauth2", "gl")),
        ),
        ("git@github.com:a/b.git", {"provider_tokens": GITHUB}, ("git@github.com:a/b.git", "b", None)),
        ("file:///srv/b.git/", {}, ("file:///srv/b.git/", "b", None)),
        (
            "https://me@dev.azure.com/me/p/_git/b",
            {"provider_tokens": tokens(azure_devops=("az", None))},
            ("https://dev.azure.com/me/p/_git/b", "b", ("me", "az")),
        ),
        ("https://u:p%40ss@example.org/b", {"provider_tokens": GITHUB}, ("https://example.org/b", "b", ("u", "p@ss"))),
    ],
)
def test_repositories_are_understood(repository, facts, expected):
    assert understood(repository, **facts) == expected


@pytest.mark.parametrize(
    "url", ["https://github.com.evil.org/a/b", "http://github.com/a/b", "https://evil.org/github.com/b"]
)
def test_a_token_is_for_its_own_server_only(url):
    assert understood(url, provider_tokens=GITHUB, git_provider="github")[2] is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"branch": "main"}, "there is no 'repository'"),
        ({"repository": "a/b", "git_provider": "unknown"}, "Where is 'unknown'"),
        ({"repository": "https://me:secret@example.org/.."}, "must be owner/name or a URL"),
        ({"repository": "--upload-pack=x/y"}, "must be owner/name or a URL"),
        ({"repository": "https://[broken/a"}, "is not a URL"),
        ({"repository": "a/b", "provider_tokens": tokens(github=("a\nusername=b", None))}, "characters"),
    ],
)
def test_what_is_not_understood_is_said(facts, words):
    with pytest.raises(NestedError, match=words) as caught:
        repository_of(Conversation(**facts))
    assert caught.value.reason == "clone-failed"
    assert "secret" not in caught.value.message


async def test_without_a_repository_the_agent_works_in_the_workspace(fake):
    assert await check_out(fake.server, Conversation(), PLACE) == "/work"
    assert not fake.requests


async def test_the_token_travels_in_a_file_only(fake, answer):
    fake.on("POST /api/bash/execute_bash_command", answer(200, {"exit_code": 0}))
    fake.on("POST /api/file/upload", answer())
    conversation = Conversation(repository="a/b", branch="dev", provider_tokens=GITHUB)
    assert await check_out(fake.server, conversation, PLACE) == "/work/b"
    (upload,) = fake.asked("POST /api/file/upload")
    assert b"username=x-access-token\npassword=gh-token\n" in upload.content
    assert "gh-token" not in str(upload.url)
    for command in fake.asked("POST /api/bash/execute_bash_command"):
        assert b"gh-token" not in command.content


async def test_a_failure_is_explained_by_what_git_says_without_the_token(fake, answer):
    fake.on("POST /api/file/upload", answer())
    said = {"exit_code": 128, "stderr": "fatal: gh-token is wrong"}
    fake.on("POST /api/bash/execute_bash_command", answer(200, {"exit_code": 0}), answer(200, said))
    conversation = Conversation(repository="a/b", provider_tokens=GITHUB)
    request = StartLoop(conversation_id="c", conversation=conversation)
    with pytest.raises(NestedError, match=r"https://github.com/a/b.git could not be cloned: fatal: \*+ is wrong"):
        await check_out(fake.server.hiding(secrets_of(request)), conversation, PLACE)


async def test_a_private_directory_that_can_not_be_made_is_said(fake, answer):
    fake.on("POST /api/bash/execute_bash_command", answer(200, {"exit_code": 1, "stderr": "Read-only file system"}))
    conversation = Conversation(repository="a/b", provider_tokens=GITHUB)
    with pytest.raises(NestedError, match="Read-only file system"):
        await check_out(fake.server, conversation, PLACE)
    assert not fake.asked("POST /api/file/upload")


@pytest.fixture
def origin(tmp_path: Path) -> Repository:
    bare = tmp_path / "srv" / "it's here.git"
    bare.parent.mkdir()
    author = "-c user.name=a -c user.email=a@example.org"
    script = f"git init -q -b main w && cd w && git {author} commit -q --allow-empty -m one && git branch dev"
    subprocess.run(f"{script} && git clone -q --bare . {shlex.quote(str(bare))}", shell=True, cwd=tmp_path, check=True)
    return Repository(f"file://{bare}", "it's here")


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)


def head(repository: Path) -> str:
    return (repository / ".git" / "HEAD").read_text().strip()


def test_the_script_clones_a_branch_and_does_so_once(origin, tmp_path):
    work = tmp_path / "work"
    script = clone_script(origin, "dev", str(work / "it's here"), str(tmp_path / "private"))
    (tmp_path / "private").mkdir()
    assert run(script).returncode == 0
    assert head(work / "it's here") == "ref: refs/heads/dev"
    (work / "it's here" / "mine.txt").touch()
    assert run(script).returncode == 0
    assert (work / "it's here" / "mine.txt").exists()
    assert [file.name for file in work.iterdir()] == ["it's here"]
    assert not (tmp_path / "private").exists()


def test_of_scripts_at_the_same_time_all_succeed_and_one_clone_is_left(origin, tmp_path):
    place = str(tmp_path / "work" / "c")
    scripts = [clone_script(origin, None, place, str(tmp_path / f"private-{n}")) for n in range(4)]
    running = [subprocess.Popen(["sh", "-c", script]) for script in scripts]
    assert [process.wait(60) for process in running] == [0] * 4
    assert sorted(file.name for file in (tmp_path / "work").iterdir()) == ["c"]
    assert sorted(file.name for file in (tmp_path / "work" / "c").iterdir()) == [".git"]


def test_a_directory_in_the_way_stays_as_it_is(origin, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "precious").touch()
    done = run(clone_script(origin, None, str(tmp_path / "c"), str(tmp_path / "private")))
    assert done.returncode == 1
    assert "is in the way" in done.stderr
    assert (tmp_path / "c" / "precious").exists()


def test_a_branch_that_is_not_there_fails_and_leaves_nothing(origin, tmp_path):
    done = run(clone_script(origin, "no such", str(tmp_path / "work" / "c"), str(tmp_path / "private")))
    assert done.returncode != 0
    assert "no such" in done.stderr
    assert not list((tmp_path / "work").glob("*"))


def test_git_is_given_the_login_for_its_server_and_no_other(tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "login").write_text("username=u\npassword=p\n")
    repository = Repository("https://example.org/a", "a", ("u", SecretStr("p")))
    script = clone_script(repository, None, str(tmp_path / "a"), str(private))
    options = next(line for line in script.splitlines() if line.startswith("GIT_TERMINAL_PROMPT"))
    options = options.split(" clone ")[0]
    for host, answered in (("example.org", True), ("other.org", False)):
        asked = f"{options} credential fill"
        done = subprocess.run(
            ["sh", "-c", asked], input=f"protocol=https\nhost={host}\n\n", capture_output=True, text=True, check=False
        )
        assert ("password=p" in done.stdout) is answered
