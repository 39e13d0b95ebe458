"""Brokers for tests: which RabbitMQ this run uses, and brokers a test may stop, kill and restart.

``AMQTASK_TEST_BROKER`` asks for a release line, ``3.10`` or ``4.x``; without it the run takes what
the order of `amqtask.broker.choice` gives. A 4.x without Docker is a server unpacked into a folder
by ``.ci/rabbitmq-chroot``: ``AMQTASK_TEST_BROKER_ROOT``, else ``/var/cache/amqtask/rabbitmq-4``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pika
import pika.exceptions

from amqtask.amqp.address import Address
from amqtask.amqp.probe import probe
from amqtask.broker.choice import Source, choose, ensure_server, look, open_broker
from amqtask.broker.cluster import PrivateCluster
from amqtask.broker.docker import engine_answers
from amqtask.broker.node import PrivateNode
from amqtask.broker.server import find_server
from amqtask.errors import AmqtaskError, BrokerError, ConfigurationError, ConnectFailed
from tests.waiting import eventually

LINES = {"3.10": (3, 10), "4.x": (4,)}
IMAGES = {None: "rabbitmq:4-management", "3.10": "rabbitmq:3.10-management"}

# The management API tells of connections and messages within one second or two instead of five or ten.
PROMPT = "\n".join(
    [
        "collect_statistics_interval = 1000",
        "management.sample_retention_policies.global.minute = 1",
        "management.sample_retention_policies.basic.minute = 1",
        "management.sample_retention_policies.detailed.10 = 1",
    ]
)

Json = Any


class Broker:
    """A RabbitMQ as a test sees it.

    Attributes:
        url: AMQP URL.
        management_url: the management API's URL without the login; None where there is none.
        version: ``(3, 10, 8)``.
    """

    def __init__(self, url: str, management_url: str | None, version: tuple[int, ...]) -> None:
        self.url = url
        self.management_url = management_url
        self.version = version

    @property
    def vhost(self) -> str:
        return Address.parse(self.url).vhost

    def connect(self) -> pika.BlockingConnection:
        """Open a plain pika connection; the test closes it."""
        address = Address.parse(self.url)
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                host=address.host,
                port=address.port,
                virtual_host=address.vhost,
                credentials=pika.PlainCredentials(address.user, address.password),
                heartbeat=0,
                socket_timeout=10,
                blocked_connection_timeout=10,
            )
        )

    @contextlib.contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """Open a connection with one channel; both are closed at the end of the block.

        A broker that has just started may reset a connection that it has let in: it is opened once more.
        """
        connection = self.connect()
        try:
            try:
                channel = connection.channel()
            except pika.exceptions.StreamLostError:
                connection = self.connect()
                channel = connection.channel()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def api(self, method: str, path: str, body: Json = None) -> Json:
        """Ask the management API: ``api("GET", "/api/overview")``."""
        if self.management_url is None:
            raise AssertionError("this broker has no management API")
        address = Address.parse(self.url)
        login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        request = Request(
            self.management_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=10) as answer:
                content = answer.read()
        except HTTPError as error:
            error.add_note(f"{method} {path}: {error.read().decode(errors='replace')}")
            raise
        return json.loads(content) if content else None

    def close_connection(self, name: str) -> None:
        """Have the broker close every connection that calls itself ``name``; waits until it lists one."""

        def listed() -> list[str]:
            return [
                str(connection["name"])
                for connection in self.api("GET", "/api/connections")
                if connection.get("client_properties", {}).get("connection_name") == name
            ]

        for internal in eventually(listed, timeout=20, interval=0.1):
            self.api("DELETE", f"/api/connections/{quote(internal, safe='')}")

    def queues(self) -> list[Json]:
        """List the queues of this broker's virtual host."""
        return list(self.api("GET", f"/api/queues/{quote(self.vhost, safe='')}"))


class Control(Protocol):
    """What can be done to a broker of one's own."""

    def start(self) -> object: ...
    def stop(self) -> object: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def ctl(self, *arguments: str) -> str: ...


class OwnBroker(Broker):
    """A broker that belongs to one test; the address stays the same across restarts."""

    def __init__(
        self,
        control: Control,
        url: str,
        management_url: str | None,
        version: tuple[int, ...],
    ) -> None:
        super().__init__(url, management_url, version)
        self._control = control

    def start(self) -> None:
        """Start it again; returns when it accepts logins."""
        self._control.start()

    def stop(self) -> None:
        """Stop it in good order: it closes connections and keeps its data."""
        self._control.stop()

    def kill(self, *, kept: bool = True) -> None:
        """End it with SIGKILL.

        Args:
            kept: have it first write down which queues it has, which takes a second. RabbitMQ, 3.10 to 4.3, does so up to half a
                second after it has confirmed a declaration; of a quorum queue or a stream that was declared within that time
                nothing is left but a name that nobody can use, for as long as the broker lives. On 3.10 a channel that consumes
                such a quorum queue cannot even be closed: the management API answers 500 to whoever closes its connection.
        """
        if kept:
            self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")
        self._control.kill()

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self._control.pause()

    def resume(self) -> None:
        """Let it go on."""
        self._control.resume()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on it; what it printed."""
        return self._control.ctl(*arguments)


class _Container:
    """A RabbitMQ container with fixed host ports, through testcontainers."""

    def __init__(self, image: str, config: str, stack: ExitStack) -> None:
        from testcontainers.core.container import DockerContainer

        amqp, management = _free_port(), _free_port()
        container = DockerContainer(image)
        # Fixed, so that a restarted broker is found again; guest may log in from anywhere there.
        container.with_bind_ports("5672/tcp", amqp).with_bind_ports("15672/tcp", management)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "90-test.conf"
        file.write_text(f"loopback_users = none\n{config}\n")
        folder.chmod(0o755)
        container.with_volume_mapping(str(file), "/etc/rabbitmq/conf.d/90-test.conf")
        container.with_kwargs(hostname="rabbitmq")
        self._container = stack.enter_context(container)
        host = self._container.get_container_host_ip()
        self.url = f"amqp://guest:guest@{host}:{amqp}/%2F"
        self.management_url = f"http://{host}:{management}"
        self._wait()

    def _wait(self) -> None:
        def answers() -> bool:
            try:
                probe(self.url, 5.0)
            except ConnectFailed:
                return False
            return True

        eventually(answers, timeout=120, interval=0.2)

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        self._wait()

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=60)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def ctl(self, *arguments: str) -> str:
        code, said = self._container.get_wrapped_container().exec_run(
            ["rabbitmqctl", "--silent", *arguments]
        )
        if code:
            raise BrokerError(f"rabbitmqctl {arguments[0]} failed: {said.decode()}")
        text: str = said.decode()
        return text


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _line() -> str | None:
    line = os.environ.get("AMQTASK_TEST_BROKER") or None
    if line is not None and line not in LINES:
        raise ConfigurationError(
            f"AMQTASK_TEST_BROKER is {line!r}: it must be one of {', '.join(LINES)} or unset."
        )
    return line


def _docker_broker(
    config: str = "",
) -> Callable[[], AbstractContextManager[tuple[str, str | None]]]:
    @contextlib.contextmanager
    def start() -> Iterator[tuple[str, str | None]]:
        with ExitStack() as stack:
            container = _start_container(config, stack)
            yield container.url, container.management_url

    return start


def _start_container(config: str, stack: ExitStack) -> _Container:
    from docker.errors import DockerException  # type: ignore[import-untyped]  # it publishes none

    try:
        return _Container(IMAGES.get(_line(), IMAGES[None]), config, stack)
    except (DockerException, OSError) as exc:
        raise BrokerError(f"the container could not be started: {exc}.") from exc


def root_of_4() -> Path | None:
    """The folder that a RabbitMQ 4.x is unpacked in, if this run needs it."""
    if _line() != "4.x":
        return None
    given = os.environ.get("AMQTASK_TEST_BROKER_ROOT")
    root = Path(given or "/var/cache/amqtask/rabbitmq-4")
    if find_server(root) is not None:
        return root
    machine = find_server()
    if given is None and machine and "rabbitmq_server-4" in str(machine.resolve()):
        return None  # a newer distribution: its own server is a 4.x
    raise ConfigurationError(
        f"No RabbitMQ 4.x is in {root}: unpack one with `.ci/rabbitmq-chroot {root}` (as root)."
    )


@contextlib.contextmanager
def own_broker(config: str = "") -> Iterator[OwnBroker]:
    """Start a broker that nobody else uses, of the same release line as the run's.

    Args:
        config: lines for ``rabbitmq.conf``.
    """
    config = f"{PROMPT}\n{config}"
    with ExitStack() as stack:
        control: Control
        if engine_answers():
            container = _start_container(config, stack)
            control, url, management = container, container.url, container.management_url
        else:
            root = root_of_4()
            if root is None:
                ensure_server()
            node = stack.enter_context(PrivateNode(root=root, config=config))
            control, url = node, node.url
            management = node.management_url or ""
        yield OwnBroker(control, url, management or None, probe(url).release)


@contextlib.contextmanager
def own_cluster() -> Iterator[PrivateCluster]:
    """Start three private nodes that form a cluster, of the same release line as the run's."""
    root = root_of_4()
    if root is None:
        ensure_server()
    with PrivateCluster(root=root, config=PROMPT) as cluster:
        yield cluster


@contextlib.contextmanager
def run_broker(say: Callable[[str], None]) -> Iterator[Broker]:
    """Find or start the broker of a test run, with a virtual host of the run's own.

    Raises:
        AmqtaskError: there is none, or it is of another release line than asked for.
    """
    line = _line()
    with ExitStack() as stack:
        source = None if os.environ.get("AMQTASK_BROKER_URL") else line
        if source is not None and not (line == "3.10" and choose(look({})) is Source.NODE):
            broker: Broker = stack.enter_context(own_broker())
            say(f"Broker: RabbitMQ {'.'.join(map(str, broker.version))}, started for this run.")
        else:
            chosen = stack.enter_context(
                open_broker(docker=_docker_broker(PROMPT), note=say, config=PROMPT)
            )
            broker = Broker(chosen.url, chosen.management_url, chosen.version)
        if line and broker.version[: len(LINES[line])] != LINES[line]:
            raise ConfigurationError(
                f"AMQTASK_TEST_BROKER asks for RabbitMQ {line}, but the broker is"
                f" {'.'.join(map(str, broker.version))}."
            )
        yield stack.enter_context(own_vhost(broker))


@contextlib.contextmanager
def own_vhost(broker: Broker) -> Iterator[Broker]:
    """Yield the broker at a new virtual host where the management API can make one."""
    address = Address.parse(broker.url)
    # RabbitMQ's own habit: management listens 10,000 ports above AMQP.
    guessed = f"http://{address.host}:{address.port + 10_000}"
    known = Broker(broker.url, broker.management_url or guessed, broker.version)
    name = f"amqtask-test-{uuid.uuid4().hex[:12]}"
    path = f"/api/vhosts/{name}"
    try:
        known.api("PUT", path, {"description": "a test run of amqtask"})
    except (URLError, TimeoutError, ConnectionError):
        yield broker  # no management API or no right to it: the URL's own virtual host it is
        return
    try:
        known.api(
            "PUT",
            f"/api/permissions/{name}/{quote(address.user, safe='')}",
            {"configure": ".*", "write": ".*", "read": ".*"},
        )
        login = f"{quote(address.user, safe='')}:{quote(address.password, safe='')}"
        scheme = "amqps" if address.tls else "amqp"
        url = f"{scheme}://{login}@{address.endpoint}/{name}"
        # the vhost's processes start after the API has answered
        eventually(lambda: _answers(url), timeout=30, interval=0.1)
        yield Broker(url, known.management_url, broker.version)
    finally:
        with contextlib.suppress(URLError, TimeoutError):
            known.api("DELETE", path)


@contextlib.contextmanager
def limited_user(
    broker: Broker, *, configure: str = ".*", write: str = ".*", read: str = ".*"
) -> Iterator[Broker]:
    """Yield the broker as a user who has these permissions in its virtual host and no others."""
    user = f"amqtask-test-{uuid.uuid4().hex[:12]}"
    address = Address.parse(broker.url)
    broker.api("PUT", f"/api/users/{user}", {"password": "secret-word", "tags": ""})
    try:
        broker.api(
            "PUT",
            f"/api/permissions/{quote(address.vhost, safe='')}/{user}",
            {"configure": configure, "write": write, "read": read},
        )
        url = f"amqp://{user}:secret-word@{address.endpoint}/{quote(address.vhost, safe='')}"
        yield Broker(url, broker.management_url, broker.version)
    finally:
        broker.api("DELETE", f"/api/users/{user}")


def _answers(url: str) -> bool:
    try:
        probe(url, 5.0)
    except AmqtaskError:
        return False
    return True


def left_behind(broker: Broker) -> list[str]:
    """Name the queues that tests forgot to delete.

    amqtask's own (``amqtask.…``: delays, verdicts, reply queues that expire) belong to a broker
    in use; queues that end with their connection end by themselves.
    """
    if broker.management_url is None:
        return []
    return sorted(
        f"queue {queue['name']!r}"
        for queue in broker.queues()
        if not queue["name"].startswith("amqtask.")
        and not queue.get("exclusive")
        and not queue.get("auto_delete")
    )
