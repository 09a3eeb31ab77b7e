from __future__ import annotations

from loopnest_docker import naming


def test_a_name_says_what_the_container_is_for():
    name = naming.LoopName("default", "Conv_1-a", "0123456789abcdef")
    assert str(name) == "loopnest.default.Conv_1-a.0123456789abcdef"
    assert naming.parse(f"/{name}") == name


def test_other_names_are_no_loops():
    for name in (
        "/postgres",
        "/loopnest.default",
        "/loopnest-slot.default.abc",
        "/loopnest.a.b.c.d",
        "/x/loopnest.a.b.c",
    ):
        assert naming.parse(name) is None


def test_the_bridge_s_name_fits_the_kernel():
    assert len(naming.bridge_name("a" * 32)) == 15
