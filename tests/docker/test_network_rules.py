from __future__ import annotations

from loopnest_docker.network import _rules
from loopnest_docker.settings import DockerSettings


def rules(**settings: object) -> list[str]:
    return _rules("ln-abc", DockerSettings(**settings)).splitlines()


def test_by_default_nothing_of_the_host_can_be_reached():
    assert "-A ln-abc-in -m conntrack --ctstate NEW -j DROP" in rules()
    assert "-A ln-abc-fwd -d 169.254.0.0/16 -j DROP" in rules()


def test_single_ports_are_opened_before_the_rest_is_closed():
    lines = rules(host_access=[11434])
    assert lines.index("-A ln-abc-in -p tcp --dport 11434 -j RETURN") < lines.index(
        "-A ln-abc-in -m conntrack --ctstate NEW -j DROP"
    )


def test_open_means_open():
    assert not any("ctstate NEW" in line for line in rules(host_access=True))


def test_rules_are_replaced_as_a_whole_so_that_there_is_no_moment_without():
    lines = rules()
    assert any(line.startswith("iptables-restore") and "--noflush" in line for line in lines)
    assert not any(line.startswith("iptables") and "-F" in line.split() for line in lines)
