"""Where a broker comes from when a demo or a test needs one, in this order:

1. ``AMQTASK_BROKER_URL``, if set: that broker, or an error when it does not answer;
2. a Docker engine that answers;
3. a ``rabbitmq-server`` on the machine, as a private node;
4. on Debian, as root or with passwordless sudo: ``apt-get install rabbitmq-server``, then 3.

Whatever was started is stopped at the end, and nothing else is.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import msgspec

from amqtask.amqp.probe import probe
from amqtask.broker.debian import can_install, install_server
from amqtask.broker.docker import compose_broker, engine_answers
from amqtask.broker.node import PrivateNode
from amqtask.broker.server import MISSING, find_server
from amqtask.errors import BrokerError, ConfigurationError

DockerBroker = Callable[[], AbstractContextManager[tuple[str, str | None]]]
"""Starts a broker in Docker; yields its URL and its management API's."""


class Source(enum.Enum):
    """Where a broker comes from."""

    URL = "AMQTASK_BROKER_URL"
    DOCKER = "a container"
    NODE = "a private node"
    INSTALLED_NODE = "a private node of a rabbitmq-server to be installed"


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine and the environment offer."""

    url: str | None = None
    docker: bool = False
    server: bool = False
    can_install: bool = False


class ChosenBroker(msgspec.Struct, frozen=True, kw_only=True):
    """A broker that answered a login."""

    url: str
    source: Source
    version: tuple[int, ...]
    management_url: str | None = None
    node: PrivateNode | None = None


def choose(found: Findings) -> Source:
    """Decide where the broker comes from.

    Raises:
        ConfigurationError: nothing here can be or become a broker.
    """
    if found.url:
        return Source.URL
    if found.docker:
        return Source.DOCKER
    if found.server:
        return Source.NODE
    if found.can_install:
        return Source.INSTALLED_NODE
    raise ConfigurationError(
        "There is no broker to use: install Docker or rabbitmq-server (on Debian or Ubuntu:"
        " apt-get install rabbitmq-server), or set AMQTASK_BROKER_URL to a broker that runs."
    )


def look(environ: Mapping[str, str]) -> Findings:
    """Look at the environment and the machine; asks no further than the order needs."""
    if url := environ.get("AMQTASK_BROKER_URL"):
        return Findings(url=url)
    if engine_answers():
        return Findings(docker=True, server=find_server() is not None, can_install=can_install())
    if find_server() is not None:
        return Findings(server=True)
    return Findings(can_install=can_install())


@contextlib.contextmanager
def open_broker(
    environ: Mapping[str, str] = os.environ,
    docker: DockerBroker = compose_broker,
    note: Callable[[str], None] | None = None,
    config: str = "",
) -> Iterator[ChosenBroker]:
    """Find or start a broker, yield it, and stop it if it was started here.

    Args:
        environ: where ``AMQTASK_BROKER_URL`` is looked up.
        docker: how a broker is started where a Docker engine answers.
        note: told in one sentence what is used; standard error when left out.
        config: lines added to the ``rabbitmq.conf`` of a private node.

    Raises:
        ConfigurationError: there is no broker and no way to one.
        ConnectFailed: the broker of ``AMQTASK_BROKER_URL`` does not answer.
        BrokerError: the broker could not be started.
    """
    say = note or _say
    with contextlib.ExitStack() as stack:
        found = look(environ)
        source = choose(found)
        if source is Source.DOCKER:
            try:
                url, management = stack.enter_context(docker())
            except BrokerError as exc:
                # An engine that cannot fetch the image is no broker; the next in the order may be.
                say(f"Docker has no broker for us: {exc}")
                found = msgspec.structs.replace(found, docker=False)
                source = choose(found)
            else:
                yield _chosen(url, source, say, management_url=management)
                return
        if source is Source.URL and found.url:
            yield _chosen(
                found.url,
                source,
                say,
                management_url=environ.get("AMQTASK_BROKER_MANAGEMENT_URL") or None,
            )
            return
        if source is Source.INSTALLED_NODE:
            ensure_server(say)
        node = stack.enter_context(PrivateNode(config=config))
        yield _chosen(node.url, source, say, management_url=node.management_url, node=node)


def ensure_server(note: Callable[[str], None] | None = None) -> None:
    """Make sure a ``rabbitmq-server`` is on this machine, installing it where we may.

    Raises:
        ConfigurationError: there is none, and we may not install it.
        BrokerError: the installation failed.
    """
    if find_server() is not None:
        return
    if not can_install():
        raise ConfigurationError(MISSING)
    (note or _say)("Installing rabbitmq-server with apt-get (its system service stays off) ...")
    install_server()
    if find_server() is None:
        raise ConfigurationError(MISSING)


def _chosen(
    url: str,
    source: Source,
    say: Callable[[str], None],
    *,
    management_url: str | None,
    node: PrivateNode | None = None,
) -> ChosenBroker:
    info = probe(url)
    where = "the broker of AMQTASK_BROKER_URL" if source is Source.URL else source.value
    if node is not None:
        where = "a private node"
    say(f"Broker: {info.product} {info.version}, {where}.")
    return ChosenBroker(
        url=url, source=source, version=info.release, management_url=management_url, node=node
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
