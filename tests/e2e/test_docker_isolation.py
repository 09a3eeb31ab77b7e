"""A loop can't reach another loop, the engine, or the host's own services; and nobody can read its keys."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from loopnest import StartLoop
from loopnest_docker import naming

KEY_HEADER = "X-Session-API-Key"
PROCESS_ENVIRONMENT = """
import glob, os
for path in glob.glob('/proc/[0-9]*'):
    words = open(path + '/cmdline', 'rb').read()
    if path != f'/proc/{os.getpid()}' and words.startswith(b'python3') and b'nested_server' in words:
        print(open(path + '/environ').read())
"""


@pytest.fixture
def execute(engine):
    """Run a Python expression in a container, and return what it prints."""

    def run(container: str, code: str) -> str:
        made = engine.exec_create(container, ["python3", "-c", code])
        return engine.exec_start(made["Id"]).decode().strip()

    return run


@pytest.fixture
def gateway(engine, namespace):
    """The address under which the test's loops see this host."""

    def address() -> str:
        [network] = engine.networks(names=[naming.network_name(namespace)])
        return network["IPAM"]["Config"][0]["Gateway"]

    return address


def reach(address: str, port: int) -> str:
    """Code that says whether a TCP connection can be made."""
    return f"""
import socket
try:
    socket.create_connection(({address!r}, {port}), timeout=2).close()
    print('reached')
except OSError as error:
    print('refused')
"""


@pytest.fixture
def host_service() -> Iterator[int]:
    """A service of the host, on all of its addresses; its port."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(16)
        listener.settimeout(0.1)
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                try:
                    listener.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=take)
        thread.start()
        yield listener.getsockname()[1]
        stop.set()
        thread.join()


async def test_two_loops_can_not_reach_each_other(open_manager, engine, containers, execute):
    manager = await open_manager()
    for name in ("c1", "c2"):
        await manager.start_loop(StartLoop(conversation_id=name))
    one, two = containers()
    address = next(iter(two["NetworkSettings"]["Networks"].values()))["IPAddress"]
    assert execute(two["Id"], reach("127.0.0.1", 8000)) == "reached"
    assert execute(one["Id"], reach(address, 8000)) == "refused"


async def test_a_loop_can_not_reach_services_of_the_host(open_manager, gateway, containers, execute, host_service):
    manager = await open_manager()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    [container] = containers()
    assert execute(container["Id"], reach(gateway(), host_service)) == "refused"
    assert execute(container["Id"], reach("172.17.0.1", host_service)) == "refused"


async def test_the_settings_open_single_ports_of_the_host(open_manager, gateway, containers, execute, host_service):
    manager = await open_manager(host_access=[host_service])
    await manager.start_loop(StartLoop(conversation_id="c1"))
    [container] = containers()
    assert execute(container["Id"], reach(gateway(), host_service)) == "reached"


async def test_a_network_without_its_rules_is_never_used(open_manager, containers):
    from loopnest import LoopFailed

    manager = await open_manager(firewall_image="loopnest-test/none:1")
    with pytest.raises(LoopFailed, match="firewall_image") as caught:
        await manager.start_loop(StartLoop(conversation_id="c1"))
    assert caught.value.reason == "isolation-failed"
    assert containers() == []


async def test_a_container_is_hardened_by_default(open_manager, engine, containers, execute):
    manager = await open_manager()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    [container] = containers()
    host = engine.inspect_container(container["Id"])["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Init"] is True
    assert (host["Memory"], host["MemorySwap"]) == (2 << 30, 2 << 30)
    assert (host["NanoCpus"], host["PidsLimit"]) == (2_000_000_000, 1024)
    status = execute(container["Id"], "print(open('/proc/1/status').read())")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert execute(container["Id"], "import os; print(os.path.exists('/var/run/docker.sock'))") == "False"
    assert execute(container["Id"], "import os; print(os.getuid() != 0)") == "True"
    assert execute(container["Id"], "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(0, 0)"


async def test_the_port_is_published_on_loopback_only(open_manager, containers):
    manager = await open_manager()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    [container] = containers()
    assert {port["IP"] for port in container["Ports"]} == {"127.0.0.1"}


async def test_secrets_are_in_the_process_and_nowhere_the_engine_can_show(open_manager, engine, containers, execute):
    manager = await open_manager(secret_environment={"FROM_SETTINGS": "s3cret-settings"})
    loop = await manager.start_loop(StartLoop(conversation_id="c1", environment={"FROM_REQUEST": 'it\'s $a "s3cret"'}))
    [container] = containers()
    shown = json.dumps([engine.inspect_container(container["Id"]), container, engine.top(container["Id"])])
    key = loop.session_key.get_secret_value()
    assert len(key) == 43
    for secret in (key, "s3cret"):
        assert secret not in shown
    seen = execute(container["Id"], "import os; print(os.listdir('/run/loopnest'))")
    assert seen == "[]"
    environment = execute(container["Id"], PROCESS_ENVIRONMENT)
    assert 'FROM_REQUEST=it\'s $a "s3cret"' in environment
    assert "FROM_SETTINGS=s3cret-settings" in environment


async def test_each_loop_has_a_key_of_its_own_and_the_server_asks_for_it(open_manager):
    import httpx

    manager = await open_manager()
    one = await manager.start_loop(StartLoop(conversation_id="c1"))
    two = await manager.start_loop(StartLoop(conversation_id="c2"))
    assert one.session_key != two.session_key
    url = f"{one.url}/api/conversations/{one.nested_id}"
    async with httpx.AsyncClient(trust_env=False) as http:
        right = await http.get(url, headers={KEY_HEADER: one.session_key.get_secret_value()})
        wrong = await http.get(url, headers={KEY_HEADER: two.session_key.get_secret_value()})
        none = await http.get(url)
    assert (right.status_code, wrong.status_code, none.status_code) == (200, 401, 401)


async def test_a_host_with_another_secret_sees_the_loop_but_not_its_key(open_manager, settings):
    manager = await open_manager()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    (settings.state_dir / "secret").write_text("another secret of another host")
    other = await open_manager()
    [loop] = await other.list_loops()
    assert (loop.reason, loop.session_key, loop.url) == ("foreign-secret", None, None)
    assert (await other.close_session("c1")).exit_code is not None


async def test_a_server_is_published_at_an_ipv6_address(open_manager, engine, containers):
    manager = await open_manager(publish_address="::1")
    loop = await manager.start_loop(StartLoop(conversation_id="c1"))
    assert str(loop.url).startswith("http://[::1]:")
    [published] = engine.port(containers()[0]["Id"], 8000)
    assert published["HostIp"] == "::1"
