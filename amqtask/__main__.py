"""``python -m amqtask``: the same as the ``amqtask`` command."""

from __future__ import annotations

from amqtask.cli.main import main

if __name__ == "__main__":
    main()
