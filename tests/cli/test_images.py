from __future__ import annotations

import contextlib

import pytest

from loopnest import LoopFailed, Reason
from loopnest_cli import images

LISTED = {
    "Id": "sha256:" + "a" * 64,
    "RepoTags": ["loopnest/agent-server:1.58.0"],
    "Labels": {"dev.loopnest.dialect": "agent-server", "dev.loopnest.nested-version": "1.58.0"},
    "Size": 609_000_000,
    "Created": 1_700_000_000,
}
UNTAGGED = {**LISTED, "Id": "sha256:" + "b" * 64, "RepoTags": None}


class Store:
    default = "loopnest/agent-server:1.58.0"

    async def build(self, progress):
        progress("building-image", "Step 1/4 : FROM x", 0.25)
        return self.default

    async def pull(self, image, progress):
        if image == "no/such":
            raise LoopFailed("The registry has no 'no/such'.", reason=Reason.IMAGE_PULL_FAILED)
        progress("pulling-image", "layer", None)
        return image or self.default

    async def list(self):
        return [LISTED, UNTAGGED]


@pytest.fixture
def store(monkeypatch):
    @contextlib.asynccontextmanager
    async def image_store(options):
        yield Store()

    monkeypatch.setattr(images, "image_store", image_store)


def test_build_and_pull_print_the_name_and_their_progress(store, loopnest):
    result = loopnest("image", "build")
    assert (result.stdout, result.stderr) == ("loopnest/agent-server:1.58.0\n", "image: building-image\n")
    assert loopnest("image", "pull", "other:1").stdout == "other:1\n"
    assert loopnest.json("image", "pull") == {"image": "loopnest/agent-server:1.58.0"}


def test_a_pull_that_fails_says_why(store, loopnest):
    assert "error (image-pull-failed)" in loopnest("image", "pull", "no/such", code=1).stderr


def test_list_shows_what_each_image_contains_and_which_is_configured(store, loopnest):
    first, second = loopnest.json("image", "list")["images"]
    assert first == {
        "image": "loopnest/agent-server:1.58.0",
        "id": LISTED["Id"],
        "dialect": "agent-server",
        "version": "1.58.0",
        "size": 609_000_000,
        "created_at": "2023-11-14T22:13:20+00:00",
        "configured": True,
    }
    assert second["configured"] is False
    rows = [line.split() for line in loopnest("image", "list").stdout.splitlines()]
    assert rows[1][:5] == ["loopnest/agent-server:1.58.0", "agent-server", "1.58.0", "609", "MB"]
    assert rows[2][0] == "sha256:bbbbbbbbbbbb"


def test_an_engine_that_is_down_is_told_with_its_address(configure, loopnest):
    configure('[loopnest]\n[loopnest.docker.engine]\nurl = "tcp://127.0.0.1:9"\n')
    result = loopnest("image", "list", code=4)
    assert "error (engine-unreachable): The engine at tcp://127.0.0.1:9" in result.stderr
