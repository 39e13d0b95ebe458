"""Who may import whom: the contracts of pyproject.toml hold, and what core may load lazily stays lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "amqtask" / "core").glob("*.py"))
LAZY = {"compression.py": {"zstandard"}, "serialization.py": {"cloudpickle"}}


def test_the_import_contracts_hold() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_loads_no_third_party_but_msgspec(path: Path) -> None:
    tree = ast.parse(path.read_text())
    at_import = third_party(tree.body)
    anywhere = third_party(ast.walk(tree))

    assert at_import <= {"msgspec"}
    assert anywhere - {"msgspec"} <= LAZY.get(path.name, set())


def third_party(nodes: Iterable[ast.AST]) -> set[str]:
    """The packages that import statements among the nodes name, without Python's own and ours."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.Import():
                found |= {alias.name.partition(".")[0] for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                found.add(module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"amqtask"}
