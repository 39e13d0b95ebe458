"""``amqtask dead``: looked at, sent back, edited, deleted, on a real broker."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amqtask.amqp import frames
from amqtask.amqp.address import Address
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.transfer import Raw, Transfer
from amqtask.core.dead import DOUBT
from amqtask.core.letters import Filter
from amqtask.core.message import Properties
from amqtask.core.moves import KEEP, Entry, Step, encode, journal_of, mark
from amqtask.dead.actions import Retry
from amqtask.dead.look import identify
from amqtask.dead.mover import Mover
from amqtask.dead.tally import Tally
from amqtask.errors import ConnectionLost
from amqtask.testing import Proxy
from amqtask.topology.plan import DeclareQueue
from tests.brokers import Broker
from tests.cli.running import Folder, run_here
from tests.waiting import eventually

pytestmark = [
    pytest.mark.process,
    pytest.mark.exact("a command that is cut says so, and is run again by hand"),
]

HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
DAY_AGO = (datetime.now(UTC) - timedelta(days=1)).isoformat()


class Graveyard(Folder):
    """A folder to run commands in, a work queue, and its dead letters."""

    def __init__(self, path: Path, broker: Broker, kind: str) -> None:
        super().__init__(path, broker.url)
        self.broker = broker
        self.work = f"work-{uuid.uuid4().hex[:8]}"
        self.dead = f"{self.work}.dead"
        self.other = f"{self.work}-other"
        with broker.channel() as channel:
            for name in (self.work, self.dead, self.other):
                arguments: dict[str, Any] = {"x-queue-type": kind}
                if kind == "quorum":
                    arguments["x-delivery-limit"] = 2**31 - 1
                channel.queue_declare(name, durable=True, arguments=arguments)

    def run(self, *arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:  # fmt: skip
        return run_here(self.path, self.environment | environment, *arguments, stdin=stdin)

    def unbounded(self) -> tuple[str, ...]:
        """The arguments of a command that knows from the topology that the work queue refuses nothing."""
        self.write("unbounded.yaml", f"version: 1\nqueues:\n  {self.work}: {{type: classic}}\n")
        return self.work, "-f", "unbounded.yaml"

    def close(self) -> None:
        with self.broker.channel() as channel:
            for name in (self.work, self.dead, self.other, journal_of(self.dead)):
                channel.queue_delete(name)

    def transfer(self) -> Transfer:
        return Transfer([Address.parse(self.broker.url)], name="test")

    def bury(self, *ids: str, task: str = "shop.pay", error: str = "ValueError", time: str = HOUR_AGO, rounds: int = 0, **more: object) -> None:  # fmt: skip
        """Put dead letters there as a worker does; ``more`` are headers."""
        buried = []
        for letter in ids:
            headers = {
                "lang": "py",
                "task": task,
                "id": letter,
                "retries": 3,
                "weight": 0.1,
                "amqtask-dead-reason": "failure",
                "amqtask-dead-exception": error,
                "amqtask-dead-message": f"because of {error}\nand more",
                "amqtask-dead-traceback": "Traceback:\n  here",
                "amqtask-dead-queue": self.work,
                "amqtask-dead-node": "n1",
                "amqtask-dead-attempts": 4,
                "amqtask-dead-time": time,
                "amqtask-dead-rounds": rounds,
                "amqtask-dead-first-time": DAY_AGO,
                **more,
            }
            buried.append(self.message(json.dumps([[letter], {}, {}]).encode(), headers))
        with self.transfer() as transfer:
            transfer.publish_all(buried)

    def message(self, body: bytes, headers: dict[str, object], **properties: Any) -> Raw:
        given = {"content_type": "application/json", "content_encoding": "utf-8"} | properties
        header = frames.encode_properties(Properties(headers=headers, delivery_mode=2, **given))
        return Raw("", self.dead, header, body)

    def entry(self, entry: Entry) -> Raw:
        """An entry of the journal of these dead letters."""
        lasting = entry.step not in (Step.ALIVE, Step.SENT)
        header = frames.encode_properties(Properties(delivery_mode=2 if lasting else 1))
        return Raw("", journal_of(self.dead), header, encode(entry))

    def all(self, queue: str) -> list[tuple[Properties, bytes]]:
        """Everything in a queue, in order; it stays there."""
        with self.transfer() as transfer:
            return [(found.properties, found.body) for found in transfer.read(queue)]

    def ids(self, queue: str) -> list[str]:
        return [str((properties.headers or {}).get("id")) for properties, _ in self.all(queue)]

    def depth(self, queue: str) -> int:
        with self.broker.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def settles(self, **depths: int) -> None:
        """Wait until the queues ``work``, ``dead`` and ``other`` hold so many; what is given back takes a moment."""
        eventually(lambda: all(self.depth(getattr(self, q)) == n for q, n in depths.items()), 10)

    def json(self, *arguments: str) -> Any:
        done = self.run("dead", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(params=["classic", "quorum"])
def yard(tmp_path: Path, broker: Broker, request: pytest.FixtureRequest) -> Iterator[Graveyard]:
    yard = Graveyard(tmp_path, broker, request.param)
    yield yard
    yard.close()


@pytest.fixture
def one_yard(tmp_path: Path, broker: Broker) -> Iterator[Graveyard]:
    yard = Graveyard(tmp_path, broker, "quorum")
    yield yard
    yard.close()


def test_a_look_counts_and_changes_nothing(yard: Graveyard) -> None:
    yard.bury(*(f"v{number}" for number in range(600)))
    yard.bury("k1", "k2", error="KeyError", time=DAY_AGO)
    yard.bury("o1", task="shop.other")
    before = yard.ids(yard.dead)

    for _ in range(2):
        yard.settles(dead=603)
        found = yard.json("list", yard.work)
    listed = yard.run("dead", "list", yard.dead)
    yard.settles(dead=603)
    flat = yard.run("dead", "list", "-Q", yard.work, "--flat", "--task", "shop.o*")
    few = yard.run("dead", "list", yard.work, "--since", "2h", "--error", "K*")

    assert [(g["task"], g["error"], g["count"]) for g in found] == [
        ("shop.pay", "ValueError", 600),
        ("shop.pay", "KeyError", 2),
        ("shop.other", "ValueError", 1),
    ]
    rows = listed.stdout.splitlines()
    assert len(rows) == 4
    assert "because of KeyError" in rows[2]
    assert "and more" not in listed.stdout
    assert flat.stdout.splitlines()[1].split()[2:6] == [yard.dead, "o1", "shop.other", "ValueError"]
    assert few.stdout == "No dead letters match.\n"
    yard.settles(dead=603)
    assert yard.ids(yard.dead) == before


def test_show_tells_everything(one_yard: Graveyard) -> None:
    one_yard.bury("a")
    one_yard.bury("b", rounds=2)

    shown = one_yard.run("dead", "show", "b", one_yard.work)
    data = one_yard.json("show", "a", one_yard.work)
    nobody = one_yard.run("dead", "show", "c", one_yard.work)

    assert shown.returncode == 0
    for line in (
        "task: shop.pay",
        f"queue: {one_yard.work}, now in {one_yard.dead}",
        "error: ValueError: because of ValueError\\nand more",
        "attempts: 4",
        "node: n1",
        "sent back: 2 times before",
        'args: ["b"]',
        "header weight: 0.1",
        "    here",
    ):
        assert line in shown.stdout, shown.stdout
    assert (data["args"], data["headers"]["weight"], data["id"]) == (["a"], 0.1, "a")
    assert nobody.returncode == 1
    assert nobody.stderr == f"No dead letter has the id 'c' in {one_yard.dead}.\n"


def test_what_is_no_task_is_listed_shown_retried_as_it_is(one_yard: Graveyard) -> None:
    canary = one_yard.path / "canary"

    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    pickled = pickle.dumps([[Touch()], {}, {}])
    with one_yard.transfer() as transfer:
        transfer.publish_all(
            [
                one_yard.message(pickled, {"task": "t", "id": "p"}, content_type="application/x-python-serialize", content_encoding="binary"),
                Raw("", one_yard.dead, frames.encode_properties(Properties()), b"\xff\x00"),
            ]
        )  # fmt: skip
    listed = one_yard.json("list", one_yard.work)
    odd = next(group for group in listed if group["task"] is None)
    shown = one_yard.run("dead", "show", odd["sample"], one_yard.work)
    refused = one_yard.run("dead", "show", "p", one_yard.work)
    done = one_yard.json("retry", one_yard.work)

    assert len(listed) == 2
    assert "body: 2 bytes" in shown.stdout
    assert "begins with: ff 00" in shown.stdout
    assert f"body: {len(pickled)} bytes" in refused.stdout
    assert not canary.exists()
    assert done["done"] == 2
    assert [body for _, body in one_yard.all(one_yard.work)] == [pickled, b"\xff\x00"]


def test_retry_sends_back_what_is_meant(yard: Graveyard) -> None:
    past = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    yard.bury("a", expires=past)
    yard.bury("b", error="KeyError")
    yard.bury("c", task="shop.other")

    dry = yard.run("dead", "retry", yard.work, "--error", "ValueError", "--dry-run")
    yard.settles(dead=3)
    done = yard.json("retry", yard.work, "--error", "ValueError", "--task", "shop.p*")
    elsewhere = yard.run("dead", "retry", yard.work, "--id", "c", "--queue", yard.other)

    assert dry.stdout.splitlines()[-1] == "2 dead letters would be sent back."
    assert done["done"] == 1
    assert done["targets"] == {yard.work: 1}
    assert elsewhere.stdout == f"1 dead letter sent back ({yard.other} 1); 1 left.\n"
    yard.settles(work=1, dead=1, other=1)
    ((properties, body),) = yard.all(yard.work)
    headers = dict(properties.headers or {})
    assert (headers["retries"], headers["expires"], headers["weight"]) == (0, None, 0.1)
    assert headers["amqtask-dead-rounds"] == 1
    assert "amqtask-dead-exception" not in headers
    assert json.loads(body) == [["a"], {}, {}]
    assert yard.ids(yard.dead) == ["b"]


def test_a_limit_and_a_rate(one_yard: Graveyard) -> None:
    one_yard.bury(*map(str, range(40)))

    limited = one_yard.json("retry", one_yard.work, "--limit", "7", "--rate", "20/s")
    wrong = one_yard.run("dead", "retry", one_yard.work, "--rate", "fast")

    assert (limited["done"], limited["left"]) == (7, 33)
    one_yard.settles(work=7, dead=33)
    assert one_yard.ids(one_yard.work) == [str(number) for number in range(7)]
    assert wrong.returncode == 2
    assert "write it like 50/s" in wrong.stderr


def test_discard_asks_and_exports(yard: Graveyard) -> None:
    yard.bury("a", "b", "c")
    file = yard.path / "gone.jsonl"

    nobody = yard.run("dead", "discard", yard.work)
    no, _ = yard.run_on_terminal("dead", "discard", yard.work, "--id", "a", typed="n\n")
    yard.settles(dead=3)
    yes, shown = yard.run_on_terminal("dead", "discard", yard.work, "--id", "a", typed="y\n")
    yard.settles(dead=2)
    told = yard.run("dead", "discard", yard.work, "--yes", "--export", str(file))

    assert nobody.returncode == 1
    assert "give --yes" in nobody.stderr
    assert (no, yes) == (1, 0)
    assert f"Delete 1 dead letter of {yard.dead} for good?" in shown
    assert told.stdout == "2 dead letters deleted; 0 left.\n"
    yard.settles(dead=0, work=0)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["b", "c"]
    assert lines[0]["properties"]["headers"]["weight"] == 0.1


def test_edit_with_options(one_yard: Graveyard) -> None:
    one_yard.bury("a", "b")

    done = one_yard.run("dead", "edit", "b", one_yard.work, "--args", "[5]", "--kwargs", '{"k": null}', "--set", "task=shop.other", "--set", "level=7")  # fmt: skip
    wrong = one_yard.run("dead", "edit", "a", one_yard.work, "--args", "{}")
    silent = one_yard.run("dead", "edit", "a", one_yard.work)

    assert done.returncode == 0, done.stderr
    ((properties, body),) = one_yard.all(one_yard.work)
    headers = dict(properties.headers or {})
    assert json.loads(body) == [[5], {"k": None}, {}]
    assert (headers["id"], headers["task"], headers["level"], headers["retries"]) == ("b", "shop.other", 7, 0)  # fmt: skip
    assert wrong.returncode == 2
    assert "must be a list of JSON" in wrong.stderr
    assert silent.returncode == 1
    assert "VISUAL or EDITOR" in silent.stderr
    one_yard.settles(dead=1)


def test_edit_in_an_editor(one_yard: Graveyard) -> None:
    one_yard.bury("a")
    editor = one_yard.write(
        "editor.py",
        """
        import json, pathlib, sys
        file = pathlib.Path(sys.argv[1])
        letter = json.loads(file.read_text())
        letter["args"].append("more")
        letter["headers"]["weight"] = 0.2
        file.write_text(json.dumps(letter))
        """,
    )
    broken = one_yard.write("broken.sh", "#!/bin/sh\necho nonsense > $1\n")
    broken.chmod(0o755)

    same = one_yard.run("dead", "edit", "a", one_yard.work, EDITOR="true", VISUAL="")
    odd = one_yard.run("dead", "edit", "a", one_yard.work, EDITOR=str(broken), VISUAL="")
    one_yard.settles(dead=1)
    done = one_yard.run("dead", "edit", "a", one_yard.work, EDITOR=f"python3 {editor}", VISUAL="")

    assert same.stdout == "Nothing was changed.\n"
    assert (odd.returncode, odd.stderr.startswith("What the editor left is no JSON")) == (1, True)
    assert done.returncode == 0, done.stderr
    ((properties, body),) = one_yard.all(one_yard.work)
    assert json.loads(body)[0] == ["a", "more"]
    assert dict(properties.headers or {})["weight"] == 0.2


def test_a_target_that_is_not_there(one_yard: Graveyard) -> None:
    one_yard.bury("a", "b")
    with one_yard.broker.channel() as channel:
        channel.queue_delete(one_yard.work)

    done = one_yard.run("dead", "retry", one_yard.work)
    unknown = one_yard.run("dead", "list", "nobody")

    assert done.returncode == 1
    assert done.stderr.startswith(f"There is no queue '{one_yard.work}' on the broker")
    one_yard.settles(dead=2)
    assert unknown.stderr == "There is no queue 'nobody.dead' on the broker.\n"


@pytest.mark.parametrize("room", [0, 3])
def test_a_target_that_is_full_loses_nothing(one_yard: Graveyard, room: int) -> None:
    with one_yard.broker.channel() as channel:
        channel.queue_delete(one_yard.work)
        channel.queue_declare(one_yard.work, durable=True, arguments={"x-max-length": 1 + room, "x-overflow": "reject-publish"})  # fmt: skip
        channel.confirm_delivery()
        channel.basic_publish("", one_yard.work, b"before")
    one_yard.bury(*map(str, range(20)))

    done = one_yard.run("dead", "retry", one_yard.work, "--json")

    assert done.returncode == 1
    assert "refuses messages: it is full" in done.stderr
    report = json.loads(done.stdout)
    held = Counter(one_yard.ids(one_yard.work)) + Counter(one_yard.ids(one_yard.dead))
    assert set(held) >= {str(number) for number in range(20)}
    doubled = sum(count > 1 for letter, count in held.items() if letter != "None")
    assert doubled <= report["doubtful"] <= 4
    assert (report["kept"], report["doubtful"]) == ((1, 0) if room == 0 else (4, 4))


def test_a_target_known_to_be_bounded_is_never_filled(one_yard: Graveyard) -> None:
    one_yard.write(
        "topology.yaml",
        f"""
        version: 1
        queues:
          {one_yard.work}: {{type: classic, max_length: 5, overflow: reject-publish}}
        """,
    )
    with one_yard.broker.channel() as channel:
        channel.queue_delete(one_yard.work)
        channel.queue_declare(one_yard.work, durable=True, arguments={"x-max-length": 5, "x-overflow": "reject-publish"})  # fmt: skip
    one_yard.bury(*map(str, range(20)))

    done = one_yard.run("dead", "retry", "-f", "topology.yaml")

    assert done.returncode == 1
    assert "at most 5 messages" in done.stderr
    moved = one_yard.ids(one_yard.work)
    assert 1 <= len(moved) <= 5
    assert sorted(moved + one_yard.ids(one_yard.dead), key=int) == [str(n) for n in range(20)]


def test_killed_again_and_again_it_loses_and_doubles_nothing(yard: Graveyard) -> None:
    count = 2000
    yard.bury(*map(str, range(count)))

    moved = 0
    for interval in (0.001, 0.005, 0.02):
        with yard.process("dead", "retry", *yard.unbounded()) as retry:
            before = moved
            moved = eventually(lambda before=before: yard.depth(yard.work) > before and yard.depth(yard.work), 20, interval=interval)  # type: ignore[misc]  # mypy has no type for the default  # fmt: skip
            retry.end(signal.SIGKILL)
    # of the batch under way both may be there, until the next one has looked
    eventually(lambda: yard.depth(yard.work) + yard.depth(yard.dead) >= count, 20)
    done = yard.run("dead", "retry", *yard.unbounded())
    assert done.returncode == 0, done.stderr
    assert sorted(yard.ids(yard.work), key=int) == [str(number) for number in range(count)]
    yard.settles(dead=0)


def begin(yard: Graveyard, transfer: Transfer) -> list[Delivery]:
    """Begin to move all letters of a yard, as a command does."""
    end = yard.entry(Entry(Step.MARK, uuid.uuid4().hex))
    arguments = {"x-queue-type": "classic", "x-message-ttl": KEEP, "x-expires": KEEP + 86_400_000}
    journal = DeclareQueue(journal_of(yard.dead), arguments=arguments)
    assert transfer.begin(yard.dead, journal, end) == []
    return list(transfer.read(yard.dead, begun=True))


def test_what_a_killed_command_had_sent_is_not_sent_again(yard: Graveyard) -> None:
    yard.bury(*map(str, range(6)))
    with yard.transfer() as transfer:
        found = [identify(yard.dead, delivery) for delivery in begin(yard, transfer)]
        marks = [mark(each.properties, each.delivery.body, each.letter) for each in found]
        copies = [copy for each in found[:2] if (copy := Retry()(each)) is not None]
        entries = [
            Entry(Step.ALIVE, "sent"),
            Entry(Step.INTENT, "sent", tuple(marks[:2]), (yard.work,)),
            Entry(Step.ALIVE, "not sent"),
            Entry(Step.INTENT, "not sent", tuple(marks[2:4]), (yard.work,)),
            Entry(Step.INTENT, "broker restarted", tuple(marks[4:]), (yard.work,)),
        ]
        transfer.publish_all([yard.entry(each) for each in entries])
        assert not transfer.send(copies, yard.entry(Entry(Step.SENT, "sent")))
        # and here it is killed

    done = yard.json("retry", *yard.unbounded(), "--limit", "4")

    assert (done["done"], done["finished"], done["doubtful"], done["left"]) == (4, 2, 2, 0)
    yard.settles(work=6, dead=0)
    arrived = {
        str((each.headers or {})["id"]): each.headers or {} for each, _ in yard.all(yard.work)
    }
    assert set(arrived) == {str(number) for number in range(6)}
    assert {name for name, headers in arrived.items() if DOUBT in headers} == {"4", "5"}


def test_what_a_queue_may_have_refused_is_not_taken_away(one_yard: Graveyard) -> None:
    one_yard.bury("a", "b")
    with one_yard.transfer() as transfer:
        found = [identify(one_yard.dead, delivery) for delivery in begin(one_yard, transfer)]
        marks = tuple(mark(each.properties, each.delivery.body, each.letter) for each in found)
        sent = [
            Entry(Step.ALIVE, "1"),
            Entry(Step.INTENT, "1", marks, (one_yard.work,)),
            Entry(Step.SENT, "1"),
        ]
        # of the transaction a queue that was full refused the copies, and here it is killed
        transfer.publish_all([one_yard.entry(each) for each in sent])

    done = one_yard.json("retry", one_yard.work)

    assert (done["done"], done["finished"], done["doubtful"]) == (2, 0, 2)
    one_yard.settles(work=2, dead=0)
    assert all(DOUBT in (each.headers or {}) for each, _ in one_yard.all(one_yard.work))


@pytest.mark.parametrize("taken_away", [False, True])
def test_a_connection_lost_at_the_last_step_counts_each_once(one_yard: Graveyard, taken_away: bool) -> None:  # fmt: skip
    cuts = [taken_away]

    class Cut(Transfer):
        """Loses its connection once, just before or after the letters are taken away."""

        def settle(self, deliveries: Sequence[Delivery], note: Raw | None = None) -> None:
            if cuts and not cuts[0]:
                cuts.clear()
                raise ConnectionLost("cut before")
            super().settle(deliveries, note)
            if cuts:
                cuts.clear()
                raise ConnectionLost("cut after")

    one_yard.bury("a", "b", "c")
    with one_yard.transfer() as transfer:
        (found, *_) = (identify(one_yard.dead, each) for each in begin(one_yard, transfer))
        which = mark(found.properties, found.delivery.body, found.letter)
        # of a command that was killed, and the broker restarted
        intent = Entry(Step.INTENT, "1", (which,), (one_yard.work,))
        transfer.publish_all([one_yard.entry(intent)])
    tally = Tally()
    mover = Mover(lambda: Cut([Address.parse(one_yard.broker.url)], name="test"))
    mover.run(one_yard.dead, Filter(), Retry(), tally=tally, limit=2)

    assert (tally.done, tally.doubtful, tally.finished) == (2, 1, 0)
    assert tally.targets == {one_yard.work: 2}
    one_yard.settles(work=2, dead=1)


def test_one_command_at_a_time(one_yard: Graveyard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amqtask.amqp.transfer.BUSY", 0.2)
    one_yard.bury("a")
    with one_yard.transfer() as transfer:
        begin(one_yard, transfer)

        refused = one_yard.run("dead", "retry", one_yard.work)

    assert refused.returncode == 1
    assert (
        refused.stderr
        == f"Another command moves the letters of '{one_yard.dead}' right now; wait until it has ended.\n"
    )
    assert one_yard.json("retry", one_yard.work)["done"] == 1


def test_a_connection_that_is_cut_again_and_again(one_yard: Graveyard) -> None:
    one_yard.bury(*map(str, range(100)))
    with Proxy.before(one_yard.broker.url) as proxy:
        one_yard.environment["AMQTASK_BROKER_URL"] = proxy.url
        with one_yard.process(
            "dead", "retry", *one_yard.unbounded(), "--rate", "100/s", "--json"
        ) as retry:
            for moved in (5, 50):
                eventually(lambda moved=moved: one_yard.depth(one_yard.work) > moved, 30, interval=0.02)  # type: ignore[misc]  # mypy has no type for the default  # fmt: skip
                proxy.cut()
            assert retry.wait(60) == 0, retry.output
        report = json.loads(retry.output)

    assert (report["done"], report["doubtful"]) == (100, 0)
    assert Counter(one_yard.ids(one_yard.work)) == Counter(map(str, range(100)))


def test_ctrl_c_ends_after_a_whole_batch(one_yard: Graveyard) -> None:
    one_yard.bury(*map(str, range(300)))

    with one_yard.process("dead", "retry", one_yard.work, "--rate", "50/s") as retry:
        eventually(lambda: one_yard.depth(one_yard.work) > 0, 20)
        code = retry.end(signal.SIGINT)
        said = retry.output

    assert code == 130
    moved = len(one_yard.ids(one_yard.work))
    assert said == f"{moved} dead letter{'s' * (moved > 1)} sent back ({one_yard.work} {moved}); {300 - moved} left.\n"  # fmt: skip
    one_yard.settles(dead=300 - moved)


def test_on_a_terminal_there_is_a_bar_and_a_table(one_yard: Graveyard) -> None:
    one_yard.bury("a", "b")

    code, shown = one_yard.run_on_terminal("dead", "list", one_yard.work)
    back, said = one_yard.run_on_terminal("dead", "retry", one_yard.work)

    assert (code, back) == (0, 0)
    assert "shop.pay" in shown
    assert "2 dead letters sent back" in said


def test_without_a_name_the_topology_tells(one_yard: Graveyard) -> None:
    one_yard.write("topology.yaml", f"version: 1\nqueues: {{{one_yard.work}: {{}}, never-declared: {{}}}}\n")  # fmt: skip
    one_yard.bury("a")

    found = one_yard.json("list", "-f", "topology.yaml")
    lost = one_yard.run("dead", "list")

    assert [group["queue"] for group in found] == [one_yard.dead]
    assert lost.returncode == 1
    assert lost.stderr.startswith("Which dead letters?")


def test_without_a_broker(folder: Folder) -> None:
    for command in (["list", "a"], ["retry", "a"], ["discard", "a", "-y"], ["show", "1", "a"]):
        found = folder.run("dead", *command)

        assert found.returncode == 1
        assert found.stderr.startswith("No RabbitMQ answers at 127.0.0.1:1 ")


def test_a_letter_with_a_way_back_that_nobody_knows(one_yard: Graveyard) -> None:
    graveyard = f"{one_yard.work}-other"
    with one_yard.broker.channel() as channel:
        channel.basic_publish("", graveyard, b"x")
    one_yard.write(
        "topology.yaml",
        f"version: 1\nqueues: {{{one_yard.work}: {{dead_letter: {{exchange: '', routing_key: {graveyard}}}}}, {graveyard}: {{dead_letter: false}}}}\n",
    )
    one_yard.settles(other=1)

    done = one_yard.run("dead", "retry", graveyard, "-f", "topology.yaml")

    assert done.returncode == 1
    assert "name one with --queue" in done.stderr
    one_yard.settles(other=1)
