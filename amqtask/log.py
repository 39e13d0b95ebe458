"""Logging: structlog in front of the standard library's loggers.

``get_logger`` gives every module of amqtask a structlog logger over ``logging.getLogger(name)``. Inside a program that only
publishes, nothing is configured: warnings reach whatever logging the program set up (or stderr), and nothing else is
printed.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog


def get_logger(name: str) -> Any:
    """A structlog logger over the standard logger ``name``; key-values become part of the line. Any thread."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
