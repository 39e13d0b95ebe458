"""The words of the Makefile and the compose files: help lists them all, and they stay on loopback."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
WORDS = [
    "help",
    "setup",
    "fmt",
    "lint",
    "type",
    "layers",
    "test",
    "test-unit",
    "test-weather",
    "test-all",
    "chaos",
    "bench",
    "bench-peers",
    "demo",
    "up",
    "down",
    "clean",
]


def test_make_alone_prints_every_word() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    told = re.findall(r"^  ([a-z-]+) +\S", done.stdout, flags=re.MULTILINE)
    assert told == WORDS


def _compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load((ROOT / "compose" / name).read_text())
    return loaded


@pytest.mark.parametrize(("name", "nodes"), [("broker.yml", 1), ("cluster.yml", 3)])
def test_compose_files_open_ports_on_loopback_only(name: str, nodes: int) -> None:
    services = _compose(name)["services"]
    assert len(services) == nodes
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
