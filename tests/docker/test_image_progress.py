from __future__ import annotations

from loopnest_docker.image import _Tracker


def test_a_build_tells_its_steps_as_a_fraction():
    assert _Tracker().read({"stream": "Step 3/12 : RUN make\n"}) == ("Step 3/12 : RUN make", 0.25)


def test_what_is_no_step_has_no_fraction():
    assert _Tracker().read({"stream": "Collecting pluggy\n"}) == ("Collecting pluggy", None)


def test_a_pull_sums_over_its_layers():
    tracker = _Tracker()
    tracker.read({"status": "Downloading", "id": "a", "progressDetail": {"current": 50, "total": 100}})
    line = {"status": "Downloading", "id": "b", "progressDetail": {"current": 100, "total": 100}}
    assert tracker.read(line) == ("Downloading b", 0.75)
