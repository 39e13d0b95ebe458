from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.environments import PEERS, REQUIREMENTS, Missing

pytestmark = pytest.mark.process


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environments and requirements in a folder of the test."""
    (tmp_path / "wanted").mkdir()
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path / "wanted")
    return tmp_path


def quiet(_: str) -> None:
    """Where nobody reads what is said."""


def test_amqtask_runs_where_the_harness_runs() -> None:
    assert environments.python("amqtask", quiet) == Path(sys.executable)


def test_an_environment_is_made_once_and_again_when_its_packages_change(elsewhere: Path) -> None:
    said: list[str] = []
    wanted = elsewhere / "wanted" / "celery.txt"
    wanted.write_text("# nothing\n")
    interpreter = environments.python("celery", said.append)
    assert subprocess.run([interpreter, "-c", ""], check=False).returncode == 0
    environments.python("celery", said.append)
    assert len(said) == 1
    wanted.write_text("# nothing at all\n")
    environments.python("celery", said.append)
    assert len(said) == 2


def test_what_cannot_be_installed_is_told_and_nothing_is_left(elsewhere: Path) -> None:
    (elsewhere / "wanted" / "taskiq.txt").write_text("./no-such-folder\n")
    with pytest.raises(Missing, match=r"it could not be installed: .*no-such-folder"):
        environments.python("taskiq", quiet)
    assert not (elsewhere / "made" / "taskiq").exists()


def test_without_a_compiler_the_c_program_is_missing(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(Missing, match="install gcc"):
        environments.rabbitmq_c()


@pytest.mark.parametrize("who", PEERS)
def test_the_versions_of_peers_are_pinned(who: str) -> None:
    lines = (REQUIREMENTS / f"{who}.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert packages
    assert all("==" in line for line in packages)
