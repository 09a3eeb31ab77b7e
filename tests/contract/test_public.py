"""What is public is listed, documented and tested."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import loopnest
from loopnest import hookspec, specs

TESTS = Path(__file__).parents[1]
HOOKS = [name for name, one in vars(specs).items() if hasattr(one, f"{hookspec.project_name}_spec")]


def test_all_lists_what_is_there_and_nothing_else():
    public = {name for name, one in vars(loopnest).items() if not name.startswith("_") and not inspect.ismodule(one)}
    assert sorted(loopnest.__all__) == sorted(public)
    assert len(set(loopnest.__all__)) == len(loopnest.__all__)


@pytest.mark.parametrize("name", loopnest.__all__)
def test_what_is_public_is_documented(name):
    one = getattr(loopnest, name)
    if inspect.isclass(one) or inspect.isfunction(one):
        assert inspect.getdoc(one)


def test_errors_of_the_tree_are_public():
    from loopnest import errors

    tree = {
        name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, loopnest.LoopnestError)
    }
    assert tree <= set(loopnest.__all__)


def test_the_four_hooks_and_those_around_them_are_specified():
    from loopnest.selection import WORK_HOOKS

    assert set(WORK_HOOKS) < set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_an_example_that_is_python(name):
    _, _, example = inspect.getdoc(getattr(specs, name)).partition("Example:")
    code = inspect.cleandoc(example[example.index("@") :]) if "@" in example else example
    (function,) = ast.parse(inspect.cleandoc(code)).body
    assert function.name == name
    known = set(inspect.signature(getattr(specs, name)).parameters)
    assert {argument.arg for argument in function.args.args} <= known


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_arguments(name):
    guide = (TESTS.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"| `{name}({', '.join(inspect.signature(getattr(specs, name)).parameters)})` |" in guide


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_async(name):
    assert inspect.iscoroutinefunction(getattr(specs, name))


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test(name):
    sources = [path.read_text() for path in (TESTS / "contract").glob("*.py") if path.name != Path(__file__).name]
    assert any(name in source for source in sources)


def test_the_contract_imports_nothing_of_engines_and_hosts():
    program = "import sys, loopnest; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    strangers = {"docker", "httpx", "openhands", "pytest", "typer", "psutil", "loopnest_docker", "loopnest_nested"}
    assert strangers.isdisjoint(module.partition(".")[0] for module in modules)


def test_every_public_module_is_documented_and_no_other():
    guide = (TESTS.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| (`loopnest\.[^|]*) \|", guide, re.MULTILINE))
    names = {name for row in documented for name in re.findall(r"`loopnest\.(\w+)`", row)}
    directory = Path(inspect.getfile(loopnest)).parent
    assert names == {path.stem for path in directory.iterdir() if not path.name.startswith(("_", ".", "py.typed"))}


def test_plugins_and_examples_import_what_is_public():
    sources = [*(TESTS.parent / "plugin").rglob("*.py"), *(TESTS.parent / "examples").rglob("*.py")]
    private = {
        f"{path.relative_to(TESTS.parent)}: {module}"
        for path in sources
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if module.startswith("loopnest.") and any(part.startswith("_") for part in module.split("."))
    }
    assert len(sources) > 100
    assert private == set()


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
