"""A cluster of private RabbitMQ nodes on loopback, to see what becomes of tasks when one of them dies.

Each member is a `amqtask.broker.node.PrivateNode` in a folder below the cluster's. They share a name daemon (epmd) of the
cluster's own, so that one that is killed takes nobody's name along, and a secret of the cluster's own.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from amqtask.amqp.address import Address
from amqtask.amqp.management import Management, NoAnswer
from amqtask.broker.node import Membership, PrivateNode
from amqtask.broker.ports import free_port, is_listening
from amqtask.broker.processes import MARK, end_all
from amqtask.broker.server import node_environment
from amqtask.broker.temporary import Temporary, new_folder
from amqtask.errors import BrokerError, ConfigurationError

SIZE = 3  # members: the smallest number that can lose one and keep a majority


class ClusterRecord(msgspec.Struct, frozen=True):
    """What ``cluster.json`` holds: what must survive from one start to the next."""

    epmd: int
    cookie: str


class PrivateCluster(Temporary):
    """RabbitMQ nodes of one's own that form a cluster, named by its folder.

    As a context manager it starts the cluster and, at the end, removes it with its data; a guard process does so too when
    this process is killed. One thread at a time.

    Args:
        home: the cluster's folder; a new temporary one when left out.
        size: how many nodes.
        root: a file tree (chroot) to take the server from; needs root. ``home`` must lie inside it.
        config: lines added to each node's ``rabbitmq.conf``.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        size: int = SIZE,
        root: Path | None = None,
        config: str = "",
    ) -> None:
        self.home = (home or new_folder(root)).absolute()
        self.root = root
        self._record = self._load()
        names = tuple(f"amqtask{number}@localhost" for number in range(1, size + 1))
        self.nodes = tuple(
            PrivateNode(
                self.home / f"node{number}",
                root=root,
                config=config,
                # The founder and itself: RabbitMQ 4.x waits at its first start for every peer it knows of.
                member=Membership(
                    name,
                    self._record.epmd,
                    self._record.cookie,
                    tuple(dict.fromkeys((names[0], name))),
                ),
            )
            for number, name in enumerate(names, 1)
        )

    def __repr__(self) -> str:
        return f"PrivateCluster({str(self.home)!r})"

    @property
    def url(self) -> str:
        """The URLs of the nodes that run, separated by ``;``.

        Raises:
            BrokerError: none runs.
        """
        urls = [url for node in self.nodes if (url := node.status().url) is not None]
        if not urls:
            raise BrokerError(f"No node of the cluster in {self.home} is running.")
        return ";".join(urls)

    def start(self, timeout: float = 180.0) -> None:
        """Start every node that does not run; return when all accept logins and know each other.

        Raises:
            ConfigurationError: no server on this machine.
            BrokerError: a node did not come up, or not into this cluster.
        """
        deadline = time.monotonic() + timeout
        self._start_names(deadline)
        nodes = list(self.nodes)
        if not (nodes[0].home / "node.json").exists():
            # The first one founds the cluster; all at once could found three.
            nodes.pop(0).start(max(1.0, deadline - time.monotonic()))
        within = max(1.0, deadline - time.monotonic())
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            for started in [pool.submit(node.start, within) for node in nodes]:
                started.result()
        _wait(lambda: self._members() == len(self.nodes), deadline, "The nodes found no cluster.")

    def leader(self, queue: str, vhost: str = "/") -> PrivateNode | None:
        """The node that leads a quorum queue, as a node that runs says; ``None`` while none is elected.

        Raises:
            BrokerError: no node answers, or there is no such queue.
        """
        for node in self.nodes:
            status = node.status()
            if not status.running or status.url is None:
                continue
            management = Management.of(Address.parse(status.url), status.management_url)
            with contextlib.suppress(NoAnswer):
                found = management.get("queues", vhost, queue)
                name = found.get("leader") or found.get("node")
                return next((each for each in self.nodes if _named(each, name)), None)
        raise BrokerError(f"No node of the cluster in {self.home} tells who leads queue {queue!r}.")

    def discard(self) -> None:
        """Kill all nodes and remove the folder with all data."""
        for node in self.nodes:
            node.discard()
        end_all(str(self.home))
        shutil.rmtree(self.home, ignore_errors=True)

    # ------------------------------------------------------------ inside

    def _folders(self) -> tuple[Path, ...]:
        return (*(node.home for node in self.nodes), self.home)

    def _load(self) -> ClusterRecord:
        file = self.home / "cluster.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=ClusterRecord)
        except (OSError, msgspec.DecodeError):
            record = ClusterRecord(free_port(), secrets.token_hex(10).upper())
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            file.write_bytes(msgspec.json.encode(record))
        except OSError as error:
            raise ConfigurationError(
                f"The cluster's folder {self.home} cannot be made ({error.strerror})."
            ) from error
        return record

    def _start_names(self, deadline: float) -> None:
        """Start the name daemon unless it runs."""
        if is_listening(self._record.epmd):
            return
        command = ["epmd", "-daemon", "-port", str(self._record.epmd), "-address", "127.0.0.1"]
        if self.root is not None:
            command = ["chroot", str(self.root), *command]
        try:
            subprocess.run(
                command,
                env={**node_environment(), MARK: str(self.home)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                "Erlang's name daemon cannot be started: epmd must be on the PATH."
            ) from error
        _wait(
            lambda: is_listening(self._record.epmd),
            deadline,
            "Erlang's name daemon does not answer.",
        )

    def _members(self) -> int:
        """How many running nodes the first one sees, itself among them."""
        status = self.nodes[0].status()
        if status.url is None:
            return 0
        try:
            nodes = Management.of(Address.parse(status.url), status.management_url).get("nodes")
        except NoAnswer:
            return 0
        return sum(bool(node.get("running")) for node in nodes)


def _named(node: PrivateNode, name: object) -> bool:
    return node.member is not None and node.member.name == name


def _wait(condition: Callable[[], bool], deadline: float, problem: str) -> None:
    while not condition():
        if time.monotonic() > deadline:
            raise BrokerError(problem)
        time.sleep(0.1)
