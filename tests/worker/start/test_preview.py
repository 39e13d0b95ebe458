"""The settings of an app that this process never imports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amqtask.worker.start.preview import AppRefused, app_settings

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _import_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_settings_come_without_the_import(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "previewed.py").write_text(
        "from amqtask import App\n"
        "print('noise')\n"
        "app = App('a', worker_concurrency=7, task_routes={'x.*': {'queue': 'q'}}, task_time_limit=1.5)\n"
    )

    settings = app_settings("previewed")

    assert (settings.worker_concurrency, settings.task_time_limit) == (7, 1.5)
    assert settings.task_routes["x.*"].queue == "q"
    assert "previewed" not in sys.modules
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("import os; os._exit(3)", "ended the process (exit code 3)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("x = 1", "No App in refused"),
        ("def", "invalid syntax"),
    ],
)
def test_an_app_that_cannot_be_imported(tmp_path: Path, code: str, reason: str) -> None:
    (tmp_path / "refused.py").write_text(code + "\n")

    with pytest.raises(AppRefused) as caught:
        app_settings("refused")

    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    if "Error" in reason:
        assert "refused.py" in caught.value.traceback
