from __future__ import annotations

import pytest
from pydantic import ValidationError

from loopnest_docker.settings import DockerSettings


def problem(**settings: object) -> str:
    with pytest.raises(ValidationError) as caught:
        DockerSettings(**settings)
    [error] = caught.value.errors()
    return f"{error['loc'][0]}: {error['msg']}"


def test_sizes_are_read_as_people_write_them():
    assert DockerSettings(memory="3GiB").memory == 3 * 2**30


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "1MiB"}, "memory: Input should be greater than or equal to"),
        ({"cpus": 0}, "cpus: Input should be greater than 0"),
        ({"url_template": "http://{hots}"}, "url_template: Value error, has unknown placeholders ['hots']"),
        ({"url_template": "http://{host"}, "url_template: Value error, is not a template"),
        ({"mounts": [{"source": "/data/{user}", "target": "/data"}]}, "mounts: Value error, has unknown placeholders"),
        ({"mounts": [{"source": "/data", "target": "data"}]}, "mounts: String should match pattern"),
        ({"labels": {"dev.loopnest.nonce": "x"}}, "labels: Value error, labels that begin with 'dev.loopnest.'"),
        ({"blocked_networks": ["somewhere"]}, "blocked_networks: Value error, Expected 4 octets"),
        ({"host_access": [0]}, "host_access: "),
        ({"environment": {"a.b": "x"}}, "environment: 'a.b' is no name of a variable: use letters"),
        ({"secret_environment": {"a.b": "x"}}, "secret_environment: 'a.b' is no name of a variable"),
        ({"publish_address": "localhost"}, "publish_address: Value error, must be an IP address"),
        ({"publish_address": ""}, "publish_address: Value error, must be an IP address"),
        ({"pull_policy": "sometimes"}, "pull_policy: Input should be 'missing', 'always' or 'never'"),
    ],
)
def test_bad_settings_are_named(settings, words):
    if settings.keys() == {"host_access"}:
        with pytest.raises(ValidationError, match="host_access"):
            DockerSettings(**settings)
    else:
        assert problem(**settings).startswith(words)


def test_secret_variables_are_not_shown():
    assert "hunter2" not in repr(DockerSettings(secret_environment={"TOKEN": "hunter2"}))
