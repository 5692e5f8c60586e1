"""The house: imports run downwards only, and the public names are those that are pinned."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ginsfsm

SRC = Path(__file__).parent.parent / "src" / "ginsfsm"

# A module imports only what stands on a line above its own. A new module needs a place here.
LEVELS = [
    ["errors", "folder", "net", "gclass", "seconds"],
    ["logs", "module_file"],
    ["convert", "event", "stats"],
    ["inspection", "row", "gconfig"],
    ["settings", "fault"],
    ["smachine", "clock"],
    ["subscription", "given", "life"],
    ["gobj"],
    ["task", "poller", "deadlines", "signals"],
    ["gaplic", "sock"],
    ["c_timer", "c_sock"],
    ["srv"],
    ["c_srv_sock"],
    ["draw"],
    ["testing", "shutdown", "snapshot", "service_manager", "tree_text"],
    ["check", "workers", "announcer"],
    ["c_supervised", "c_worker"],
    ["c_workers"],
    ["census", "metrics"],
    ["command"],
    ["cli"],
    ["__init__", "__main__"],
]

# `format(Door, "mermaid")` draws: the one place of the core that knows a wing, when it is called.
LOOKS_UP = {("gclass", "draw")}

MODULES = sorted(path.relative_to(SRC) for path in SRC.glob("**/*.py"))


def level_of(name: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if name in names)


def imported(path: Path) -> set[str]:
    """The first words after `ginsfsm.` of what a module imports when it runs."""
    tree = ast.parse(path.read_text())
    # What stands under `if TYPE_CHECKING:` is for type checkers and may look upwards.
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "ginsfsm":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ginsfsm."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("ginsfsm.")
            }
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_run_downwards_only(module: Path) -> None:
    own = module.parts[0].removesuffix(".py")
    for other in imported(SRC / module):
        # A package may import its own modules.
        if other != own and (own, other) not in LOOKS_UP:
            assert level_of(other) < level_of(own), f"{module} imports {other}"


@pytest.mark.parametrize("module", [one for one in MODULES if one.parts[0] == "net"], ids=str)
def test_net_stands_beside_the_core_and_imports_nothing_of_it(module: Path) -> None:
    assert imported(SRC / module) <= {"net"}


def test_the_public_names_are_the_pinned_ones() -> None:
    assert set(ginsfsm.__all__) >= {
        "NOT_ACCEPTED", "POSTPONE", "Event", "EventError", "GAplic", "GConfigError", "GObj",
        "GObjError", "GinsfsmError", "MachineError", "StateError", "after", "enter", "leave", "on",
        "param",
    }  # fmt: skip
    for name in ginsfsm.__all__:
        assert hasattr(ginsfsm, name), name
