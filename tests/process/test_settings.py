from __future__ import annotations

import pytest
from pydantic import ValidationError

from loopnest_process.settings import ProcessSettings


@pytest.mark.parametrize("table", ["environment", "secret_environment"])
def test_a_variable_whose_name_no_shell_takes_is_refused_by_name(table):
    with pytest.raises(ValidationError) as caught:
        ProcessSettings(**{table: {"a.b": "x"}})
    [error] = caught.value.errors()
    assert error["loc"][:2] == (table, "a.b")
