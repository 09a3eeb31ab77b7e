from __future__ import annotations

import io
import subprocess
import tarfile

import pytest
from pydantic import SecretStr

from loopnest_docker.container import new_spec
from loopnest_docker.image import Image
from loopnest_docker.secret_file import secret_archive
from loopnest_docker.settings import DockerSettings
from loopnest_nested.dialects import get_dialect

from ..start_requests import start_request

IMAGE = Image("some/image:1", "sha256:abc", ("/bin/server", "--all"), {})


def spec(settings: DockerSettings | None = None, **request: object):
    start = start_request("c1", **request)
    dialect = get_dialect("agent-server")
    return new_spec(settings or DockerSettings(), dialect, start, image=IMAGE, network="net", owner="nobody")


def test_the_image_s_own_command_runs_behind_the_secret_variables():
    body = spec().body()
    assert body["Entrypoint"][:2] == ["/bin/sh", "-c"]
    assert body["Cmd"] == ["/bin/server", "--all"]


def test_everything_is_dropped_and_bounded_by_default():
    host = spec().body()["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["MemorySwap"] == host["Memory"] == 2 * 2**30
    assert host["PidsLimit"] == 1024
    assert host["PortBindings"]["8000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": ""}]
    assert "Runtime" not in host


def test_loosening_is_a_setting():
    settings = DockerSettings(
        cap_add=["SYS_PTRACE"],
        privilege_escalation=True,
        runtime="runsc",
        gpus=-1,
        devices=["/dev/kvm"],
        extra_hosts={"model": "host-gateway"},
        user="0",
        mounts=[{"source": "/data/{conversation_id}", "target": "/data", "read_only": True}],
    )
    body = spec(settings).body()
    host = body["HostConfig"]
    assert host["CapAdd"] == ["SYS_PTRACE"]
    assert host["SecurityOpt"] == []
    assert host["Runtime"] == "runsc"
    assert host["DeviceRequests"][0]["Count"] == -1
    assert host["Devices"] == [{"PathOnHost": "/dev/kvm", "PathInContainer": "/dev/kvm", "CgroupPermissions": "rwm"}]
    assert host["ExtraHosts"] == ["model:host-gateway"]
    assert host["Binds"] == ["/data/c1:/data:ro"]
    assert body["User"] == "0"


def test_secrets_are_in_no_part_of_the_configuration():
    settings = DockerSettings(secret_environment={"A": "hunter2"})
    made = spec(settings, environment={"B": "hunter3"})
    assert "hunter" not in str(made.body())
    assert "hunter" not in repr(made)


def test_two_specifications_have_the_same_digest_only_if_they_are_alike():
    def digest(*settings, **facts):
        return spec(*settings, **facts).digest(SecretStr("the host's"))

    assert digest() == digest(initial_message={"text": "hello"})
    assert digest() != digest(DockerSettings(memory="4GiB"))
    assert digest() != digest(DockerSettings(mounts=[{"source": "/{conversation_id}", "target": "/d"}]))
    assert digest() != digest(DockerSettings(secret_environment={"TOKEN": "one"}))
    assert digest() != spec().digest(SecretStr("another's"))


@pytest.mark.parametrize("value", ["plain", "it's", 'say "hi"', "$HOME `id` $(id)", "two\nlines", "back\\slash", ""])
def test_secret_variables_survive_the_shell_unchanged(tmp_path, value):
    with tarfile.open(fileobj=io.BytesIO(secret_archive({"VALUE": SecretStr(value)}))) as tar:
        content = tar.extractfile("run/loopnest/env").read()
    (tmp_path / "env").write_bytes(content)
    shown = subprocess.run(
        ["/bin/sh", "-c", f'. {tmp_path}/env; printf %s "$VALUE"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == value


def test_the_nested_server_runs_where_its_agent_cannot_write(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(secret_archive({}))) as tar:
        (tmp_path / "env").write_bytes(tar.extractfile("run/loopnest/env").read())
    command = ["/bin/sh", "-c", f'. {tmp_path}/env; exec "$@"', "loopnest", "pwd"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "/\n"
