"""What the fork server says about an app it imports; its life with processes is in test_supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amqtask.errors import ConfigurationError
from amqtask.worker.forking.forkserver import refusal, source_folders

pytestmark = pytest.mark.process


def raised(text: str, name: str = "shop.py") -> BaseException:
    try:
        exec(compile(text, name, "exec"), {})
    except BaseException as error:  # noqa: BLE001 - whatever the line raises is what the test wants
        return error
    raise AssertionError("nothing raised")


def test_own_errors_are_shown_as_they_are() -> None:
    shown = refusal(ConfigurationError("Set AMQTASK_APP to your app."))

    assert (shown.reason, shown.code, shown.traceback) == ("Set AMQTASK_APP to your app.", 1, None)


@pytest.mark.parametrize(
    ("text", "reason", "code"),
    [
        (
            "1 / 0",
            "The app cannot be imported: ZeroDivisionError: division by zero (shop.py:1).",
            1,
        ),
        (
            "raise KeyError",
            "The app cannot be imported: KeyError (shop.py:1).",
            1,
        ),
        (
            "raise ValueError('two\\n  lines')",
            "The app cannot be imported: ValueError: two lines (shop.py:1).",
            1,
        ),
        ("raise SystemExit(4)", "The app called sys.exit(4) while it was imported (shop.py:1).", 4),
    ],
)
def test_failed_import_is_one_sentence_with_its_place(text: str, reason: str, code: int) -> None:
    shown = refusal(raised(text))

    assert (shown.reason, shown.code) == (reason, code)
    assert shown.traceback is not None


def test_source_folders_are_the_top_ones_of_the_users_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "inner" / "__init__.py").touch()
    (tmp_path / "pack" / "inner" / "tasks_of_test.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("pack.inner.tasks_of_test")
    try:
        folders = source_folders()
    finally:
        for name in ("pack", "pack.inner", "pack.inner.tasks_of_test"):
            sys.modules.pop(name, None)

    assert str(tmp_path / "pack") in folders
    assert not any(folder.startswith(str(tmp_path / "pack" / "inner")) for folder in folders)
    assert not any("site-packages" in folder for folder in folders)
