"""A private RabbitMQ node: the machine's own ``rabbitmq-server``, on loopback, in a folder of ours.

It has its own node name, ports, data, Erlang cookie and name daemon (epmd on its own port), so it
lives beside any other RabbitMQ of the machine without either noticing. Its folder holds all there
is to know of it::

    node.json       ports and version, written before the server is launched
    process         pid and start time, written by the server's own process before it becomes one
    rabbitmq.conf, enabled_plugins, environment.conf, inetrc, .erlang.cookie
    db/  log/       RabbitMQ's data and logs (console.log is what it printed)
    lock            held while a start or a stop is under way

The server is its own session and belongs to nobody: it outlives the process that started it, and
whatever state that process left is understood by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from amqtask.amqp.probe import probe
from amqtask.broker.ports import Ports, free_ports, is_free, is_listening
from amqtask.broker.processes import (
    MARK,
    Process,
    end_all,
    marked,
    parse_stat,
    wait_gone,
    wait_still,
)
from amqtask.broker.server import MISSING, find_server, missing_in, node_environment
from amqtask.broker.temporary import Temporary, new_folder
from amqtask.errors import BrokerError, ConfigurationError, ConnectFailed

# The shell's own /proc entry keeps pid and start time across exec: what it writes here is the
# identity of the server it becomes. So there is no moment with a server and no record of it.
_LAUNCH = 'cat /proc/$$/stat >"$1.new" && mv "$1.new" "$1" && shift && exec "$@"'

# RabbitMQ 3.10 with its management plugin deadlocks in every stop, until a call times out after five seconds: what
# terminates asks the process that waits for it to terminate. Ended at once here, as it is then.
_UNLOCK = """spawn(fun() -> (fun Look(Stopping) -> timer:sleep(100), case init:get_status() of
    {stopping, _} -> case catch process_info(whereis(rabbit_event), current_stacktrace) of
        {current_stacktrace, Stack} when Stopping -> case lists:keymember(rabbit_mgmt_db_handler, 1, Stack) of
            true -> exit(whereis(rabbit_event), kill); false -> Look(true) end;
        _ -> Look(true) end;
    _ -> Look(false) end end)(false) end).""".replace("\n", " ")

# Seconds in which the threads of a broker that was killed may still hold its ports, after the kernel calls it a zombie.
PORTS_FREED = 2.0
STILL_WITHIN = 1.0  # seconds that a paused server may go on: a thread of it can wait for a disk
# What RabbitMQ, 3.10 to 4.3, says when it finds a port in use.
_TAKEN = ("eaddrinuse", "dist_port_already_used")
_LOG_PREFIX = re.compile(r"^\S+ \S+ \[\w+\] <[\d.]+>")


class NodeRecord(msgspec.Struct, frozen=True):
    """What ``node.json`` holds: what must survive from one start to the next."""

    ports: Ports
    version: str
    management: bool


class Membership(msgspec.Struct, frozen=True):
    """A node's place among the members of a cluster, which share a name daemon and a secret.

    Attributes:
        name: Erlang node name, like ``amqtask1@localhost``.
        epmd: port of the cluster's name daemon, which runs already.
        cookie: the secret that lets Erlang nodes talk to each other.
        peers: names of the members that it looks for at its first start, its own among them.
    """

    name: str
    epmd: int
    cookie: str
    peers: tuple[str, ...]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node at one moment; ports and version are None where it was never started."""

    running: bool
    home: Path
    log: Path
    version: str | None = None
    pid: int | None = None
    ports: Ports | None = None
    url: str | None = None
    management_url: str | None = None


def default_home() -> Path:
    """Return the folder of the user's development node.

    ``AMQTASK_BROKER_HOME`` if set, else ``amqtask/broker`` in the XDG state folder.
    """
    if chosen := os.environ.get("AMQTASK_BROKER_HOME"):
        return Path(chosen).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser().absolute() / "amqtask" / "broker"


class PrivateNode(Temporary):
    """A RabbitMQ node of one's own, named by its folder.

    Every method may be called by any thread and any process that knows the folder; starts and
    stops exclude each other across processes. As a context manager it starts the node and, at the
    end, removes it with its data; a guard process does so too when this process is killed.

    Args:
        home: the node's folder; a new temporary one when left out.
        root: a file tree (chroot) to take the server from instead of this machine; needs root.
            ``home`` must lie inside it.
        config: lines added to ``rabbitmq.conf``.
        member: the node's place in a cluster, where it is part of one.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        root: Path | None = None,
        config: str = "",
        member: Membership | None = None,
    ) -> None:
        self.home = (home or new_folder(root)).absolute()
        self.member = member
        self.root = root.absolute() if root else None
        if self.root and not self.home.is_relative_to(self.root):
            raise ConfigurationError(f"The node's folder {home} must lie inside {root}.")
        self.config = config

    def __repr__(self) -> str:
        return f"PrivateNode({str(self.home)!r})"

    # ------------------------------------------------------------ what it is now

    @property
    def url(self) -> str:
        """The broker URL.

        Raises:
            BrokerError: the node does not run.
        """
        status = self.status()
        if not status.running or status.url is None:
            raise BrokerError(
                "The private broker is not running: start it with `amqtask broker start`."
            )
        return status.url

    @property
    def management_url(self) -> str | None:
        """The management API's URL; None where RabbitMQ lacks the plugin or the node is down."""
        return self.status().management_url

    def status(self) -> NodeStatus:
        """Return what is known of the node; never waits."""
        record = self._record()
        process = self._process()
        running = record is not None and process is not None and self._ours(process)
        log = self.home / "log" / "console.log"
        if record is None:
            return NodeStatus(running=False, home=self.home, log=log)
        return NodeStatus(
            running=running,
            home=self.home,
            log=log,
            version=record.version,
            pid=process.pid if running and process else None,
            ports=record.ports,
            url=_url(record.ports) if running else None,
            management_url=(
                f"http://127.0.0.1:{record.ports.management}"
                if running and record.management
                else None
            ),
        )

    # ------------------------------------------------------------ start and stop

    def start(self, timeout: float = 120.0) -> NodeStatus:
        """Start the node, or find it running; return when it accepts AMQP logins.

        Ports, once chosen, stay the same from start to start while they are free. Safe to call
        from several processes at once: one starts the node, the others wait for it.

        Args:
            timeout: seconds until a node that does not come up is an error.

        Raises:
            ConfigurationError: no server on this machine, or a folder that cannot be written.
            BrokerError: the server ended or did not answer in time.
        """
        deadline = time.monotonic() + timeout
        server = find_server(self.root)
        if server is None:
            raise ConfigurationError(MISSING if self.root is None else missing_in(self.root))
        self._make_home()
        with self._locked(deadline):
            process = self._process()
            record = self._record()
            if record and process and self._ours(process):
                self._wait_ready(record.ports, process, deadline)
                return self.status()
            self._sweep()
            ports = self._ports(record)
            for _ in range(3):
                try:
                    self._launch(server, ports, deadline)
                    return self.status()
                except _PortTaken:
                    self._sweep()
                    ports = self._ports(None)
                except BaseException:
                    self._sweep()  # a start that fails leaves nothing running
                    raise
        raise BrokerError(
            "RabbitMQ found its ports taken three times in a row; start it again in a moment."
        )

    def stop(self, timeout: float = 60.0) -> bool:
        """Stop the node and all its processes; False when none ran. The data stays.

        Args:
            timeout: seconds RabbitMQ has to close its data; after that it is killed.

        Raises:
            BrokerError: a process of the node cannot be ended.
        """
        if not os.path.isdir(self.home):  # noqa: PTH112 - Path.is_dir raises where we may not look
            return False
        deadline = time.monotonic() + timeout
        with self._locked(deadline + 120.0):
            process = self._process()
            running = process is not None and self._ours(process)
            if process is not None and running:
                process.signal(signal.SIGTERM)
                process.signal(signal.SIGCONT)  # a paused node must hear it too
                wait_gone(process, max(0.1, deadline - time.monotonic()))
            self._sweep()
            return running

    def kill(self) -> None:
        """End the server at once with SIGKILL, as a crash of the machine would."""
        process = self._process()
        if process is not None and self._ours(process):
            process.signal(signal.SIGKILL)
            wait_gone(process, 10.0)

    def pause(self) -> None:
        """Stop the server's clock (SIGSTOP): connections stay open and nothing answers from when this returns."""
        wait_still(self._send(signal.SIGSTOP), STILL_WITHIN)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._send(signal.SIGCONT)

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl`` on the node, and return what it printed.

        Args:
            arguments: like ``"set_disk_free_limit", "1GB"``.
            timeout: seconds it may take.

        Raises:
            BrokerError: it failed; the text is its last line.
        """
        server = find_server(self.root)
        record = self._record()
        if server is None or record is None:
            raise BrokerError(f"The broker in {self.home} is not running.")
        rabbitmqctl = server.with_name("rabbitmqctl")
        command = self._command(rabbitmqctl, "--silent", "--node", self._name, *arguments)
        try:
            done = subprocess.run(
                command,
                env=self._environment(record.ports),
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BrokerError(
                f"rabbitmqctl {arguments[0]} took longer than {timeout:g} s."
            ) from None
        except OSError as error:
            raise BrokerError(f"rabbitmqctl cannot be run: {error.strerror}.") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise BrokerError(f"rabbitmqctl {arguments[0]} failed: {said[-1] if said else ''}")
        return done.stdout

    def restart(self, timeout: float = 120.0) -> NodeStatus:
        """Stop and start the node on the same ports."""
        self.stop()
        return self.start(timeout)

    def discard(self) -> None:
        """Kill the node and remove its folder with all data."""
        if self.home.is_dir():
            self._sweep()
            # Helpers that were dying may still have written: the second look finds the rest.
            for _ in range(2):
                shutil.rmtree(self.home, ignore_errors=True)

    # ------------------------------------------------------------ inside

    def _folders(self) -> tuple[Path, ...]:
        return (self.home,)

    @property
    def _name(self) -> str:
        return "amqtask@localhost" if self.member is None else self.member.name

    def _ports(self, record: NodeRecord | None) -> Ports:
        """The ports of last time while they are free, else new ones."""
        epmd = None if self.member is None else self.member.epmd
        if record is not None and epmd in (None, record.ports.epmd):
            deadline = time.monotonic() + PORTS_FREED
            while time.monotonic() < deadline:
                if record.ports.free(epmd):
                    return record.ports
                time.sleep(0.02)
        ports = free_ports()
        return ports if epmd is None else msgspec.structs.replace(ports, epmd=epmd)

    def _make_home(self) -> None:
        try:
            for name in ("db", "log"):
                (self.home / name).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(
                f"The broker's folder {self.home} cannot be made ({exc.strerror}): set"
                " AMQTASK_BROKER_HOME to a folder you can write."
            ) from exc

    @contextlib.contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        with (self.home / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BrokerError(
                            f"Another start or stop of the broker in {self.home} does not end."
                        ) from None
                    time.sleep(0.05)
            yield

    def _record(self) -> NodeRecord | None:
        try:
            return msgspec.json.decode((self.home / "node.json").read_bytes(), type=NodeRecord)
        except (OSError, msgspec.DecodeError):
            return None  # never started, or an unreadable file: both mean a fresh start

    def _process(self) -> Process | None:
        try:
            return parse_stat((self.home / "process").read_text())
        except (OSError, ValueError):
            return None

    def _ours(self, process: Process) -> bool:
        return process.alive() and process in marked(str(self.home))

    def _send(self, signum: signal.Signals) -> Process:
        process = self._process()
        if process is None or not self._ours(process):
            raise BrokerError(f"The broker in {self.home} is not running.")
        process.signal(signum)
        return process

    def _sweep(self) -> None:
        """End what is left of the node: its name daemon, or a start that was cut short."""
        if left := end_all(str(self.home)):
            raise BrokerError(f"Process {left[0].pid} of the broker in {self.home} does not end.")
        (self.home / "process").unlink(missing_ok=True)

    def _command(self, program: Path, *arguments: str) -> list[str]:
        """A program of the server's, run where the server is."""
        command = [self._inside(program), *arguments]
        return command if self.root is None else ["chroot", str(self.root), *command]

    def _inside(self, path: Path) -> str:
        return str(path) if self.root is None else "/" + str(path.relative_to(self.root))

    def _launch(self, server: Path, ports: Ports, deadline: float) -> None:
        plugins = server.resolve().parent.parent / "plugins"
        management = any(plugins.glob("rabbitmq_management-*"))
        version = server.resolve().parent.parent.name.partition("-")[2]
        self._write("node.json", msgspec.json.encode(NodeRecord(ports, version, management)))
        self._write("environment.conf", b"")  # so that /etc/rabbitmq/rabbitmq-env.conf is not read
        # Erlang asks this table first: a machine whose /etc/hosts lacks localhost is no obstacle.
        self._write(
            "inetrc",
            b'{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n',
        )
        self._write("enabled_plugins", b"[rabbitmq_management].\n" if management else b"[].\n")
        self._write("rabbitmq.conf", self._configuration(ports, management).encode())
        if self.member is not None:
            self._write(".erlang.cookie", self.member.cookie.encode())
            (self.home / ".erlang.cookie").chmod(0o400)
        command = self._command(server)
        with (self.home / "log" / "console.log").open("wb") as console:
            # setsid forks and returns: the server is the child of nobody here, so no process of
            # ours has to live, or to wait, for it.
            subprocess.run(
                [
                    "setsid",
                    "--fork",
                    "sh",
                    "-c",
                    _LAUNCH,
                    "sh",
                    str(self.home / "process"),
                    *command,
                ],
                env=self._environment(ports) | {"ERL_AFLAGS": f"-eval '{_UNLOCK}'"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                check=True,
            )
        while (process := self._process()) is None:
            self._check_deadline(deadline)
            time.sleep(0.01)
        self._wait_ready(ports, process, deadline)
        # What the server says of itself is better than what its folder is called.
        version = probe(_url(ports)).version or version
        self._write("node.json", msgspec.json.encode(NodeRecord(ports, version, management)))

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file at once, so that a reader or a crash never meets half of it."""
        new = self.home / f"{name}.new"
        new.write_bytes(content)
        new.replace(self.home / name)

    def _configuration(self, ports: Ports, management: bool) -> str:
        lines = [f"listeners.tcp.default = 127.0.0.1:{ports.amqp}"]
        if management:
            lines += [
                "management.tcp.ip = 127.0.0.1",
                f"management.tcp.port = {ports.management}",
            ]
        if self.member is not None:
            lines.append("cluster_formation.peer_discovery_backend = classic_config")
            lines += [
                f"cluster_formation.classic_config.nodes.{number} = {peer}"
                for number, peer in enumerate(self.member.peers, 1)
            ]
        return "\n".join([*lines, self.config.strip(), ""])

    def _environment(self, ports: Ports) -> dict[str, str]:
        home = self._inside(self.home)
        return {
            **node_environment(),
            MARK: str(self.home),
            "HOME": home,  # where Erlang keeps its cookie
            "ERL_INETRC": f"{home}/inetrc",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(ports.epmd),
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1}"),
            "ERL_CRASH_DUMP": f"{home}/log/erl_crash.dump",
            "RABBITMQ_MNESIA_BASE": f"{home}/db",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/environment.conf",
            # Makes the start script exec the Erlang machine instead of watching over it from a
            # shell: the process we launch is the server itself, which stops cleanly on TERM.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _wait_ready(self, ports: Ports, process: Process, deadline: float) -> None:
        while True:
            # A listening port comes first and is cheap to ask for; the login is the real answer.
            if is_listening(ports.amqp):
                try:
                    probe(_url(ports), timeout=5.0)
                    return
                except ConnectFailed:
                    pass  # it listens before it can check a password
            if not process.alive():
                raise self._death(ports)
            self._check_deadline(deadline)
            time.sleep(0.05)

    def _death(self, ports: Ports) -> Exception:
        """Say why a server ended while it started."""
        log = self.home / "log" / "console.log"
        text = log.read_text(errors="replace")
        # The name daemon is still ours and holds its port, so that one says nothing.
        others = (ports.amqp, ports.management, ports.distribution)
        if any(told in text for told in _TAKEN) or not all(is_free(port) for port in others):
            return _PortTaken()
        lines = [_LOG_PREFIX.sub("", line).strip() for line in text.splitlines()]
        told = [line for line in lines if "error" in line.lower()]
        reason = f" ({told[0][:200]})" if told else ""
        return BrokerError(f"RabbitMQ ended while it started{reason}; its log is {log}.")

    def _check_deadline(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise BrokerError(
                "RabbitMQ did not accept logins in time; its log is"
                f" {self.home / 'log' / 'console.log'}."
            )


class _PortTaken(Exception):
    """Another process took a port between our look and the server's bind."""


def _url(ports: Ports) -> str:
    return f"amqp://guest:guest@127.0.0.1:{ports.amqp}/%2F"
