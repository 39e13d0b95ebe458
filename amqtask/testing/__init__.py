"""For tests of systems built on amqtask: a TCP proxy that misbehaves on request, and the chaos run."""

from __future__ import annotations

from amqtask.testing.proxy import Link, Proxy

__all__ = ["Link", "Proxy"]
