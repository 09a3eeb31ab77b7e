"""The conformance suite: what every strategy must do, and what follows from its capabilities.

Install ``loopnest[testing]``, subclass `StrategyConformance` in a test module, and give it a way to open your strategy,
and to read what its loops received::

    class TestMyStrategy(StrategyConformance):
        @pytest.fixture
        def new_manager(self, tmp_path):
            settings = LoopnestSettings(strategy="mine", state_dir=tmp_path, secret="the same for all managers")
            return lambda: LoopManager.from_plugins(MyStrategy(), settings=settings)

        async def received(self, loops, conversation_id):
            return await messages_of(conversation_id)

Each test starts loops of its own, and removes them afterwards. What is tested depends on the capabilities that the
strategy declares (see `loopnest.capabilities`). See `Harness` for what else can be overridden, and
`loopnest.testing.report` for a report to publish.
"""

import pytest

_MODULES = ("access", "capabilities", "closing", "hosts", "optional_overrides", "overrides", "pausing", "starts")
pytest.register_assert_rewrite(*(f"loopnest.testing.{name}" for name in _MODULES))

from loopnest.testing.access import AccessTests  # noqa: E402 - after its assertions are made to speak
from loopnest.testing.capabilities import CapabilityTests  # noqa: E402
from loopnest.testing.closing import ClosingTests  # noqa: E402
from loopnest.testing.harness import Harness, user_message  # noqa: E402
from loopnest.testing.hosts import HostTests  # noqa: E402
from loopnest.testing.optional_overrides import OptionalOverrideTests  # noqa: E402
from loopnest.testing.overrides import OverrideTests  # noqa: E402
from loopnest.testing.pausing import PauseTests  # noqa: E402
from loopnest.testing.starts import StartTests  # noqa: E402

__all__ = ["Harness", "StrategyConformance", "user_message"]


class StrategyConformance(
    StartTests,
    AccessTests,
    ClosingTests,
    HostTests,
    CapabilityTests,
    PauseTests,
    OverrideTests,
    OptionalOverrideTests,
):
    """Subclass it, name the subclass ``Test...``, and give `new_manager` and `received`."""
