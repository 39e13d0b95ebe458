"""What ``amqtask chaos`` refuses, before anything is started."""

from __future__ import annotations

import pytest

from tests.cli.running import Folder

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--queue-type", "stream"], "--queue-type is quorum or classic, not 'stream'."),
        (["--duration", "soon"], "--duration is auto or a number of seconds, not 'soon'."),
        (["--kinds", "kill-chidl"], "There is no fault 'kill-chidl'. Did you mean 'kill-child'?"),
        (["--task-kinds", "odd"], "There is no kind of task 'odd'."),
        (["-b", "3.9"], "The broker is auto, 3.10, 4.x or a URL, not '3.9'."),
        (["-b", "amqp://localhost", "--kinds", "alarm"], "The fault 'alarm' stops the broker"),
    ],
)
def test_mistakes_are_told(folder: Folder, arguments: list[str], told: str) -> None:
    done = folder.run("chaos", *arguments)

    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
