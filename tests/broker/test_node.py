"""The private node: it starts once however often it is asked, and leaves nothing when it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from amqtask.amqp.probe import probe
from amqtask.broker import node as node_module
from amqtask.broker.choice import ensure_server
from amqtask.broker.node import NodeRecord, PrivateNode, default_home
from amqtask.broker.ports import Ports, free_ports, is_free
from amqtask.broker.processes import marked, parse_stat
from amqtask.broker.server import find_server
from amqtask.errors import BrokerError, ConfigurationError, ConnectFailed
from tests.brokers import root_of_4
from tests.waiting import eventually

needs_server = pytest.mark.broker


@pytest.fixture(scope="module")
def root() -> Path | None:
    root = root_of_4()
    if root is None:
        ensure_server()
    return root


@pytest.fixture(scope="module")
def running(root: Path | None) -> Iterator[tuple[PrivateNode, set[int]]]:
    """A node that several started at the same time, with a line of configuration, in an environment that means another; and its pids."""
    node = PrivateNode(root=root, config="channel_max = 7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABBITMQ_NODE_PORT", "1")
        patch.setenv("RABBITMQ_NODENAME", "somebody@nowhere")
        patch.setenv("ERL_FLAGS", "-no_such_flag_anywhere +broken")
        with ThreadPoolExecutor(3) as pool:
            # from threads and from another process: the lock is between all of them
            other = pool.submit(
                _in_a_process, f"print(PrivateNode({str(node.home)!r}).start().pid)"
            )
            if node.root is not None:
                other.cancel()
            pids = {status.pid or 0 for status in pool.map(lambda _: node.start(), range(2))}
            if not other.cancelled():
                pids.add(int(other.result()))
    yield node, pids
    node.discard()


@pytest.fixture
def node(root: Path | None) -> Iterator[PrivateNode]:
    """A node that is not started yet, in a folder of the test's own."""
    node = PrivateNode(root=root)
    yield node
    node.discard()


def _answers(url: str) -> bool:
    try:
        probe(url, 5.0)
    except ConnectFailed:
        return False
    return True


# ---------------------------------------------------------------- without a server


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQTASK_BROKER_HOME", "/some/where")
    assert default_home() == Path("/some/where")
    monkeypatch.delenv("AMQTASK_BROKER_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_home() == Path("/state/amqtask/broker")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_home() == Path("/home/somebody/.local/state/amqtask/broker")


def test_a_node_never_started_is_not_running_and_stops_at_once(tmp_path: Path) -> None:
    node = PrivateNode(tmp_path / "broker")
    assert node.status().running is False
    assert node.status().version is None
    assert node.stop() is False
    with pytest.raises(BrokerError, match="amqtask broker start"):
        _ = node.url
    with pytest.raises(BrokerError, match="not running"):
        node.pause()


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(node_module, "find_server", lambda _root: Path("/bin/true"))
    with pytest.raises(ConfigurationError, match="AMQTASK_BROKER_HOME"):
        PrivateNode(tmp_path / "file" / "broker").start()


def test_no_server_is_one_sentence_that_says_what_to_install(tmp_path: Path) -> None:
    assert find_server(tmp_path) is None
    home = tmp_path / "broker"
    with pytest.raises(ConfigurationError, match="rabbitmq-server"):
        PrivateNode(home, root=tmp_path).start()
    assert not home.exists()


def test_a_folder_outside_of_the_servers_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="inside"):
        PrivateNode(tmp_path / "a", root=tmp_path / "b")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"ports": 3}', "\0\0"])
def test_a_damaged_record_means_not_running(tmp_path: Path, content: str) -> None:
    (tmp_path / "node.json").write_text(content)
    (tmp_path / "process").write_text(content)
    assert PrivateNode(tmp_path).status().running is False


def test_a_record_that_names_a_foreign_process_is_not_believed(tmp_path: Path) -> None:
    node = PrivateNode(tmp_path)
    record = NodeRecord(Ports(1, 2, 3, 4), "3.10.8", management=True)
    (tmp_path / "node.json").write_bytes(msgspec.json.encode(record))
    # This very process lives, and is no RabbitMQ of this folder: it must not be stopped.
    (tmp_path / "process").write_text(Path("/proc/self/stat").read_text())
    assert node.status().running is False
    assert node.stop() is False
    node.kill()


def test_a_server_that_ends_while_it_starts_is_one_sentence_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "rabbitmq-server"
    server.write_text("#!/bin/sh\necho 'Error: no beam here'\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.setattr(node_module, "find_server", lambda _root: server)
    node = PrivateNode(tmp_path / "broker")
    with pytest.raises(BrokerError, match="no beam here"):
        node.start(timeout=20)
    assert node.status().running is False


def test_a_server_that_never_answers_is_ended_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "rabbitmq-server"
    server.write_text("#!/bin/sh\nexec sleep 600\n")
    server.chmod(0o755)
    monkeypatch.setattr(node_module, "find_server", lambda _root: server)
    node = PrivateNode(tmp_path / "broker")
    with pytest.raises(BrokerError, match="in time"):
        node.start(timeout=0.5)
    assert marked(str(node.home)) == []


# ---------------------------------------------------------------- with a server


@needs_server
def test_all_ports_are_on_loopback_only(running: tuple[PrivateNode, set[int]]) -> None:
    ports = running[0].status().ports
    assert ports is not None
    listening = subprocess.run(
        [sys.executable, "-c", _LISTENERS], capture_output=True, text=True, check=True
    ).stdout.split()
    for port in (ports.amqp, ports.distribution, ports.epmd):
        addresses = {line.rpartition(":")[0] for line in listening if line.endswith(f":{port}")}
        assert addresses, port
        assert addresses <= {"127.0.0.1", "::1"}


# The kernel's own table, read in hexadecimal: no tool has to be installed for it.
_LISTENERS = """
import socket
for path, family, size in (("/proc/net/tcp", socket.AF_INET, 8), ("/proc/net/tcp6", socket.AF_INET6, 32)):
    for line in open(path).read().splitlines()[1:]:
        _, local, _, state = line.split()[:4]
        if state == "0A":
            address, port = local.split(":")
            words = [bytes.fromhex(address[i:i + 8])[::-1] for i in range(0, size, 8)]
            print(f"{socket.inet_ntop(family, b''.join(words))}:{int(port, 16)}")
"""


def _in_a_process(code: str) -> str:
    program = (
        "from pathlib import Path\nfrom amqtask.broker.node import PrivateNode as Node\n"
        "PrivateNode = lambda home: Node(Path(home), config='channel_max = 7')\n" + code
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    return done.stdout.strip()


@needs_server
def test_a_starter_killed_half_way_leaves_a_node_that_the_next_start_takes_over(
    node: PrivateNode,
) -> None:
    root = f", root=Path({str(node.root)!r})" if node.root else ""
    code = (
        "from pathlib import Path\nfrom amqtask.broker.node import PrivateNode\n"
        f"PrivateNode(Path({str(node.home)!r}){root}).start()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    eventually(lambda: (node.home / "process").exists(), timeout=30)
    os.killpg(starter.pid, signal.SIGKILL)  # its whole process group, as a closed terminal does
    starter.wait()
    launched = parse_stat((node.home / "process").read_text())
    status = node.start()
    assert status.pid == launched.pid
    assert probe(node.url).version == status.version


@needs_server
def test_a_port_taken_between_look_and_bind_means_another_try(
    node: PrivateNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports()
    offers = iter([ports])
    monkeypatch.setattr(node_module, "free_ports", lambda: next(offers, None) or _other_than(ports))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.distribution))
        taken.listen()
        status = node.start()
    assert status.ports is not None
    assert status.ports.distribution != ports.distribution


def _other_than(ports: Ports) -> Ports:
    chosen = iter(range(ports.amqp + 1, 60_000))
    return Ports(*[next(port for port in chosen if is_free(port)) for _ in range(4)])


@needs_server
def test_a_killed_starter_takes_its_temporary_node_with_it(root: Path | None) -> None:
    code = (
        "import signal\nfrom pathlib import Path\nfrom amqtask.broker.node import PrivateNode\n"
        f"with PrivateNode(root={f'Path({str(root)!r})' if root else None}) as node:\n"
        "    print(node.home, node.url, flush=True)\n    signal.pause()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    home, url = starter.stdout.readline().split()
    assert _answers(url)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    eventually(lambda: not Path(home).exists() and not marked(home), timeout=20)
    assert not _answers(url)


@needs_server
def test_starts_at_the_same_time_start_one_node(running: tuple[PrivateNode, set[int]]) -> None:
    node, pids = running
    assert pids == {node.status().pid}


@needs_server
def test_lines_of_configuration_are_added_and_variables_of_the_caller_do_not_steer(
    running: tuple[PrivateNode, set[int]],
) -> None:
    node, _ = running
    assert "channel_max = 7" in (node.home / "rabbitmq.conf").read_text()
    assert probe(node.url).product == "RabbitMQ"


@needs_server
def test_a_paused_node_takes_connections_and_does_not_answer(
    running: tuple[PrivateNode, set[int]],
) -> None:
    node, _ = running
    url = node.url
    node.pause()
    with pytest.raises(ConnectFailed):
        probe(url, timeout=0.5)
    node.resume()
    assert eventually(lambda: _answers(url))


# Each start of a server takes seconds: one life of a node shows what belongs together.


@needs_server
def test_starting_twice_is_starting_once_and_stopping_leaves_no_process_and_no_claim_on_its_ports(
    node: PrivateNode,
) -> None:
    first = node.start()
    assert node.start() == first
    assert first.running
    assert first.url is not None
    assert first.ports is not None
    assert probe(first.url).version == first.version
    # the server and its name daemon at least, all of them known by their mark
    assert len(marked(str(node.home))) >= 2
    assert node.stop() is True
    assert marked(str(node.home)) == []
    assert not _answers(first.url)
    assert node.stop() is False
    assert node.status().running is False
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first.ports.amqp))
        taken.listen()
        after = node.start()
        assert after.ports is not None
        assert after.ports.amqp != first.ports.amqp
    node.pause()
    assert node.stop(timeout=20) is True  # it is woken to hear it


@needs_server
def test_of_two_nodes_one_is_killed_and_starts_again_on_the_same_ports(root: Path | None) -> None:
    with PrivateNode(root=root) as one, PrivateNode(root=root) as two:
        before = one.status()
        assert one.url != two.url
        one.kill()
        assert one.status().running is False
        assert one.status().ports == before.ports
        assert probe(two.url).product == "RabbitMQ"
        # its name daemon outlives it; the next start must not mind, nor leave two
        after = one.start()
        assert after.url == before.url
        assert after.pid != before.pid
        assert probe(one.url).product == "RabbitMQ"
    assert not one.home.exists()
    assert not two.home.exists()
    assert marked(str(one.home)) + marked(str(two.home)) == []


def test_waiting_for_another_start_has_a_deadline(tmp_path: Path) -> None:
    node = PrivateNode(tmp_path)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with node._locked(float("inf")):
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    try:
        with pytest.raises(BrokerError, match="does not end"), node._locked(0.0):
            pass
    finally:
        done.set()
        holder.join()
