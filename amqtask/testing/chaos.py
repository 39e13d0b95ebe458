"""A chaos run: a broker, worker nodes and publishers as real processes, faults on schedule, and a ledger at the end.

::

    publishers ──┐
                 ├── proxy ── broker
    worker nodes ┘
         each process writes what it does ──> the run's folder ──> Ledger ──> Verdict

Everything is started as a user starts it. The faults come from a seed, so a run can be repeated; what the machine does between
them cannot, so a repeated run is alike and not the same.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from amqtask.amqp.address import Address
from amqtask.amqp.probe import probe
from amqtask.amqp.session import Session
from amqtask.broker.choice import ensure_server
from amqtask.broker.node import PrivateNode
from amqtask.broker.server import find_server
from amqtask.errors import BrokerError, ConfigurationError, OperationRefused
from amqtask.testing import faults, kinds
from amqtask.testing.faults import Fault
from amqtask.testing.history import Reader, Writer
from amqtask.testing.ledger import BROKER_DIES, Incident, Ledger, Verdict
from amqtask.testing.members import Members, identify
from amqtask.testing.plan import Plan, QueueKind
from amqtask.testing.proxy import Proxy
from amqtask.topology import plan as declaring
from amqtask.topology.model import dead_queue_name

START = 60.0  # seconds the nodes get until they consume
PATIENCE = 10.0  # seconds that work gets to go on before the next fault comes all the same
LOOK = 0.1  # seconds between two looks at what has happened
CALM = 3.0  # seconds without any event after which nothing is under way any more
ASK = 0.5  # seconds between two looks at the queues while they drain
SHARE = 5.0  # seconds of a run for each fault, unless a duration is given
LOAD = 50.0  # tasks published a second at most, unless a duration is given
ROOT_4 = "/var/cache/amqtask/rabbitmq-4"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does. Times are seconds.

    Attributes:
        tasks: how many are published.
        faults: how many are injected.
        seed: draws tasks, faults and their victims.
        queue_type: of the work queue.
        broker: ``auto``, ``3.10`` or ``4.x`` for a private node of that release line, or the URL of a broker.
        workers: worker nodes.
        concurrency: children of each.
        publishers: processes that publish.
        duration: over which tasks and faults are spread; by their number when ``None``.
        kinds: of faults; all that are possible when empty.
        tasks_of: kinds of tasks; all when empty.
        patience: a run is given up when nothing has happened for so long.
        recovery: work must go on so soon after the broker is back.
        keep: keep the folder with all logs, whatever the verdict.
    """

    tasks: int = 1000
    faults: int = 10
    seed: int = 1
    queue_type: QueueKind = "quorum"
    broker: str = "auto"
    workers: int = 2
    concurrency: int = 2
    publishers: int = 2
    duration: float | None = None
    kinds: tuple[str, ...] = ()
    tasks_of: tuple[str, ...] = ()
    patience: float = 45.0
    recovery: float = 5.0
    keep: bool = False

    @property
    def span(self) -> float:
        """The duration, chosen or given."""
        if self.duration is not None:
            return self.duration
        return max(5.0, SHARE * self.faults, self.tasks / LOAD)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was and what it showed.

    Attributes:
        options: what was asked for.
        broker: its version.
        python: the interpreter's version.
        machine: system, cores and kind of processor.
        seconds: how long it took.
        incidents: the faults as they happened; times count from the start of the publishers.
        verdict: the ledger's.
        folder: where the logs are kept, if they are.
    """

    options: Options
    broker: str
    python: str
    machine: str
    seconds: float
    incidents: tuple[Incident, ...]
    verdict: Verdict
    folder: str | None


class Progress(msgspec.Struct, frozen=True):
    """Where a run is."""

    phase: str
    seconds: float
    sent: int
    ended: int
    tasks: int
    fault: int
    faults: int


class Watcher(Protocol):
    """Is told how a run goes, by the thread that runs it."""

    def note(self, text: str) -> None:
        """Something happened: a fault, a phase."""

    def progress(self, progress: Progress) -> None:
        """Called several times a second."""


def run(options: Options, watcher: Watcher) -> Report:
    """Run it all and judge. Leaves nothing behind but, after a failure or when asked, the folder with the logs.

    Raises:
        ConfigurationError: an option cannot work, or there is no broker of the release line.
        BrokerError: the broker cannot be started or reached.
    """
    chosen = _check(options)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="amqtask-chaos-"))
        kept = False

        def remove() -> None:
            if not kept and not options.keep:
                shutil.rmtree(folder, ignore_errors=True)

        stack.callback(remove)
        stack.enter_context(_guarded(folder))
        node, url = _broker(options, stack)
        version = probe(url).version
        watcher.note(f"RabbitMQ {version}, {options.queue_type} queue, seed {options.seed}")
        report = _Run(options, chosen, folder, node, url, watcher, version).go(stack)
        kept = not report.verdict.good
        if kept or options.keep:
            text = msgspec.json.format(msgspec.json.encode(report), indent=2)
            folder.joinpath("report.json").write_bytes(text)
            return msgspec.structs.replace(report, folder=str(folder))
        return report


def _answers(host: str, port: int) -> bool:
    """Whether a broker speaks: an open port may be what a dying one has left."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0) as sock:
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        return sock.recv(1) == b"\x01"  # a method frame: connection.start
    return False


def _why(headers: Mapping[str, Any], queue: str) -> str:
    """Why a message is where it is: the node's reason, or the broker's."""
    if "amqtask-dead-reason" in headers:
        return str(headers["amqtask-dead-reason"])
    deaths = [death for death in headers.get("x-death") or () if death.get("queue") != queue]
    told = [
        f"{death.get('reason')} from {death.get('queue')} at {death.get('time')}"
        for death in deaths
    ]
    return f"in {queue}, {', '.join(told) or 'delivered'}, {headers.get('x-delivery-count', 'no')} returns"


def _check(options: Options) -> tuple[faults.Kind, ...]:
    for name in options.tasks_of:
        if name not in kinds.KINDS:
            raise ConfigurationError(
                f"There is no kind of task {name!r}. There are: {', '.join(kinds.KINDS)}."
            )
    return faults.choose_kinds(options.kinds, node=not _is_url(options.broker))


def _is_url(broker: str) -> bool:
    return "://" in broker


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """A process that ends the run's processes if this one is killed."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "amqtask.testing.guard", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()


def _broker(options: Options, stack: contextlib.ExitStack) -> tuple[PrivateNode | None, str]:
    """The broker of the run: a private node, or the one at a URL."""
    if _is_url(options.broker):
        return None, options.broker
    if options.broker not in ("auto", "3.10", "4.x"):
        raise ConfigurationError(f"The broker is auto, 3.10, 4.x or a URL, not {options.broker!r}.")
    root = None
    if options.broker == "4.x":
        root = Path(os.environ.get("AMQTASK_TEST_BROKER_ROOT") or ROOT_4)
        if find_server(root) is None:
            root = None  # the machine's own may be one
    if root is None:
        ensure_server()
    node = stack.enter_context(PrivateNode(root=root))
    release = ".".join(map(str, probe(node.url).release))
    if options.broker != "auto" and not release.startswith(options.broker.removesuffix("x")):
        raise ConfigurationError(
            f"The rabbitmq-server of this machine is {release}, not {options.broker}: unpack one with .ci/rabbitmq-chroot "
            "and name its folder in AMQTASK_TEST_BROKER_ROOT, or give the URL of one with -b."
        )
    return node, node.url


class _Run:
    """One run. Everything happens in the thread that calls ``go``."""

    def __init__(
        self,
        options: Options,
        chosen: tuple[faults.Kind, ...],
        folder: Path,
        node: PrivateNode | None,
        url: str,
        watcher: Watcher,
        version: str,
    ) -> None:
        self._options = options
        self._folder = folder
        self._node = node
        self._url = url
        self._watcher = watcher
        self._version = version
        self._plan = Plan(
            tag=uuid.uuid4().hex[:10],
            queue_type=options.queue_type,
            seed=options.seed,
            tasks=options.tasks,
            kinds=options.tasks_of,
            publishers=options.publishers,
            duration=options.span,
        )
        self._schedule = faults.schedule(options.seed, options.faults, options.span, chosen)
        self._ledger = Ledger(kinds.KINDS)
        self._reader = Reader(folder)
        self._incidents: list[Incident] = []
        self._phase = "starting"
        self._began = time.monotonic()
        self._moved = self._began  # when something last happened
        self._asked = 0.0  # when the queues were last looked at

    def go(self, stack: contextlib.ExitStack) -> Report:
        """Start everything, inject, drain, judge."""
        options, began = self._options, time.monotonic()
        self._declare()
        stack.callback(self._clean)
        proxy = stack.enter_context(Proxy.before(self._url))
        self._proxy = proxy
        self._plan.write(self._folder)
        members = self._members = Members(
            self._folder,
            proxy.url,
            nodes=options.workers,
            concurrency=options.concurrency,
            publishers=options.publishers,
        )
        stack.callback(members.end)
        self._until(self._ready, START)
        self._began = time.monotonic()
        self._plan = msgspec.structs.replace(self._plan, started=self._began)
        self._plan.write(self._folder)
        members.publish()
        self._phase = "running"
        for number, fault in enumerate(self._schedule, 1):
            due = self._began + fault.at
            self._until(lambda due=due: time.monotonic() >= due)  # type: ignore[misc]  # a default binds it now
            self._inject(number, fault)
            if fault.calm:
                self._until(self._goes_on, PATIENCE)
        self._phase = "draining"
        self._moved = time.monotonic()
        self._until_quiet(self._drained)
        self._phase = "stopping"
        members.stop_nodes(lambda gone: self._until(gone, 60.0))
        self._look()
        self._collect()
        verdict = self._judge()
        return Report(
            options=options,
            broker=self._version,
            python=platform.python_version(),
            machine=f"{platform.system()}, {os.cpu_count()} cores, {platform.machine()}",
            seconds=round(time.monotonic() - began, 1),
            incidents=tuple(
                msgspec.structs.replace(
                    incident,
                    began=round(incident.began - self._began, 3),
                    ended=round(incident.ended - self._began, 3),
                    broke=self._since(incident.broke),
                    back=self._since(incident.back),
                )
                for incident in self._incidents
            ),
            verdict=verdict,
            folder=None,
        )

    def _since(self, at: float | None) -> float | None:
        return None if at is None else round(at - self._began, 3)

    # ------------------------------------------------------------ waiting

    def _look(self) -> None:
        """Read what is new, and see who has died."""
        events = list(self._reader.new())
        if events:
            self._ledger.add(events)
            self._moved = time.monotonic()
        self._members.check()
        ledger = self._ledger
        self._watcher.progress(
            Progress(
                self._phase,
                time.monotonic() - self._began,
                len(ledger.acknowledged),
                len(ledger.ended),
                self._options.tasks,
                len(self._incidents),
                sum(1 + (fault.inside is not None) for fault in self._schedule),
            )
        )

    def _until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Go on looking until a condition holds; False when it does not in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._look()
            if condition():
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(LOOK)

    def _until_quiet(self, condition: Callable[[], bool]) -> bool:
        """The same, and give up when nothing has happened for a while."""
        return self._until(
            lambda: condition() or time.monotonic() - self._moved > self._options.patience
        )

    def _hold(self, seconds: float, inside: Fault | None, number: int) -> None:
        """Let a fault last; the one inside it happens half-way."""
        end = time.monotonic() + seconds
        if inside is not None:
            self._until(lambda: time.monotonic() >= end - seconds / 2)
            self._inject(number, inside)
        self._until(lambda: time.monotonic() >= end)

    def _goes_on(self) -> bool:
        """Whether a task has started since the last fault was over, or none waits."""
        ledger = self._ledger
        back = self._incidents[-1].ended if self._incidents else 0.0
        return ledger.last_start > back or not ledger.waiting()

    def _ready(self) -> bool:
        with self._session() as session:
            state = session.queue(self._plan.queue)
        wanted = self._options.workers * self._options.concurrency
        return state is not None and state.consumers >= wanted

    def _drained(self) -> bool:
        """Whether everything has ended, every queue is empty and every result is in."""
        ledger, now = self._ledger, time.monotonic()
        if self._members.publishers or now < self._asked + ASK:
            return False
        self._asked = now
        if ledger.open():
            return False
        try:
            with self._session() as session:
                left = [session.queue(name) for name in self._queues()]
                dead = session.queue(dead_queue_name(self._plan.queue))
        except BrokerError:
            return False
        if any(state is not None and state.messages for state in left):
            return False
        if dead is None or dead.messages < ledger.expected_dead():
            return False
        # what a worker holds, and a copy on its way from queue to queue, are in no number: they show by what happens
        return now - self._moved > CALM

    # ------------------------------------------------------------ the broker, past the proxy

    def _session(self) -> Session:
        return Session((Address.parse(self._url),), name="amqtask chaos", timeout=60.0)

    def _declare(self) -> None:
        with self._session() as session:
            session.apply(declaring.declarations(self._plan.topology))

    def _queues(self) -> list[str]:
        """The queues in which tasks may be that have not ended."""
        return [self._plan.queue, *self._plan.waiting_rooms]

    def _collect(self) -> None:
        """Write down what nodes have ended as revoked, and what is in the queues: the dead letters, and what was left."""
        writer = Writer(self._folder / "end.history")
        for task in sorted(self._members.revoked()):
            writer.write("discarded", task, "as revoked")
        with self._session() as session:
            for queue, what in (
                (dead_queue_name(self._plan.queue), "dead"),
                *((name, "pending") for name in self._queues()),
            ):
                while True:
                    try:
                        taken = session.take(queue)
                    except OperationRefused:
                        break  # there is no such queue
                    if taken is None:
                        break
                    headers = taken.headers
                    writer.write(what, str(headers.get("id", "?")), _why(headers, queue))
        writer.close()
        self._ledger.add(self._reader.new())

    def _clean(self) -> None:
        """Delete the queues; a broker of our own goes as a whole."""
        if self._node is not None:
            return
        with contextlib.suppress(BrokerError), self._session() as session:
            for name in (*self._queues(), dead_queue_name(self._plan.queue)):
                session.delete_queue(name)
            for name in (*self._plan.waiting_rooms, self._plan.ladder.delivery):
                session.delete_exchange(name)

    # ------------------------------------------------------------ faults

    def _inject(self, number: int, fault: Fault) -> None:
        """Have a fault happen, and write down when and to whom."""
        text = faults.KINDS[fault.kind].text
        began = time.monotonic()
        self._watcher.note(
            f"{began - self._began:7.1f} s  fault {number}: {fault.kind}"
            + (f" for {fault.hold:.1f} s" if fault.hold else "")
        )
        pids: tuple[int, ...] = ()
        back: float | None = None
        broke: float | None = None
        match fault.kind:
            case "kill-child" | "stop-child":
                children = self._members.children()
                if not children:
                    return
                pids = (children[int(fault.pick * len(children))],)
                self._signal(pids[0], fault, number)
                if fault.kind == "kill-child":
                    back, broke = began, time.monotonic()
            case "kill-supervisor":
                slot = int(fault.pick * len(self._members.nodes))
                pids = tuple(self._members.replace_node(slot, kill=True))
                back, broke = began, time.monotonic()
            case "restart-node":
                slot = int(fault.pick * len(self._members.nodes))
                self._members.replace_node(slot, kill=False)
                back = began
            case "stop-supervisor":
                slot = int(fault.pick * len(self._members.nodes))
                pids = (self._members.nodes[slot].pid,)
                self._signal(pids[0], fault, number)
            case "kill-publisher":
                slots = sorted(self._members.publishers)
                if not slots:
                    return
                slot = slots[int(fault.pick * len(slots))]
                pids = (self._members.replace_publisher(slot),)
            case "cut":
                self._proxy.cut()
                back, broke = began, time.monotonic()
            case "cut-one":
                links = self._proxy.links
                if links:
                    self._proxy.cut(links[int(fault.pick * len(links))].number)
                back, broke = began, time.monotonic()
            case "freeze":
                self._proxy.freeze()
                self._hold(fault.hold, fault.inside, number)
                self._proxy.thaw()
                back = time.monotonic()
            case "slow":
                self._proxy.slow(rate=50_000, latency=0.05)
                self._hold(fault.hold, fault.inside, number)
                self._proxy.slow()
            case _:
                broke, back = self._broker_fault(fault, number)
        self._incidents.append(
            Incident(
                number=number,
                kind=fault.kind,
                began=began,
                ended=time.monotonic(),
                pids=pids,
                broke=broke,
                back=back,
                text=text,
            )
        )

    def _signal(self, pid: int, fault: Fault, number: int) -> None:
        """Kill a process, or stop it for a time."""
        process = identify(pid)
        if process is None:
            return
        if not fault.kind.startswith("stop"):
            process.signal(signal.SIGKILL)
            return
        process.signal(signal.SIGSTOP)
        self._hold(fault.hold, fault.inside, number)
        process.signal(signal.SIGCONT)

    def _broker_fault(self, fault: Fault, number: int) -> tuple[float | None, float | None]:
        """Stop, kill, freeze or alarm the broker; when every connection was gone, and when it answered again."""
        node = self._node
        assert node is not None  # choose_kinds has seen to it
        match fault.kind:
            case "broker-freeze":
                node.pause()
                self._hold(fault.hold, fault.inside, number)
                node.resume()
                return None, time.monotonic()
            case "alarm":
                node.ctl("set_vm_memory_high_watermark", "0.0000001")
                self._hold(fault.hold, fault.inside, number)
                node.ctl("set_vm_memory_high_watermark", "0.4")
                return None, None
            case "broker-kill":
                node.kill()
            case _:
                node.stop()
        broke = time.monotonic()
        self._hold(fault.hold, fault.inside, number)
        back = self._start_broker(node)
        if node.url != self._url:
            raise BrokerError("Another process took the broker's port; start the run again.")
        return broke, back

    def _start_broker(self, node: PrivateNode) -> float:
        """Start the broker; the moment at which it answered."""
        address = Address.parse(self._url)
        answered: list[float] = []
        stop = threading.Event()

        def watch() -> None:
            while not answered and not stop.wait(0.01):
                if _answers(address.host, address.port):
                    answered.append(time.monotonic())

        watching = threading.Thread(target=watch, name="amqtask chaos watch")
        watching.start()
        try:
            node.start()
        finally:
            stop.set()
            watching.join()
        return answered[0] if answered else time.monotonic()

    # ------------------------------------------------------------ the verdict

    def _judge(self) -> Verdict:
        members = self._members
        troubles = list(members.troubles)
        if members.publishers:
            names = ", ".join(member.name for member in members.publishers.values())
            troubles.append(f"{names} did not finish")
        forgetful = self._options.queue_type == "classic" and any(
            incident.kind in BROKER_DIES for incident in self._incidents
        )
        return self._ledger.judge(
            self._incidents,
            living=members.living,
            duplicates_count=not forgetful,
            troubles=troubles,
            began=self._began,
            within=self._options.recovery,
        )
