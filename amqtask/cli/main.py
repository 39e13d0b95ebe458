"""The ``amqtask`` command: runs the command line and turns our errors into one sentence.

Exit codes: 0 done, 1 an error told in one sentence, 2 wrong usage, 130 interrupted; ``broker status`` and ``topology
explain`` have their own, told in their help.
"""

from __future__ import annotations

import os
import sys

from amqtask.cli import quick
from amqtask.errors import AmqtaskError


def main() -> None:
    """Run the command line; an error of ours ends as one sentence and exit code 1."""
    try:
        wanted = quick.worker(sys.argv[1:], os.environ)
        if wanted is not None:
            from amqtask.cli.boot import start

            raise SystemExit(start(*wanted))
        from amqtask.cli.root import app

        app()
    except AmqtaskError as error:
        _tell(str(error))
        _end(1)
    except KeyboardInterrupt:
        _end(130)
    except SystemExit as stop:
        _end(stop.code)


def _tell(sentence: str) -> None:
    from amqtask.log import escape

    try:
        sys.stderr.write("".join(f"{escape(line)}\n" for line in sentence.split("\n")))
    except (OSError, ValueError, AttributeError):
        pass  # nobody is there to read it; the exit code still says it


def _end(code: object) -> None:
    """Exit; output that a closed pipe did not take is nobody's failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # or the interpreter would try again while it ends, and say so
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, stream.fileno())
            except (OSError, ValueError, AttributeError):
                pass
            os.close(null)
    sys.exit(code)  # type: ignore[arg-type]  # what a SystemExit carried
