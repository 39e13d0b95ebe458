"""``amqtask worker``: flags, settings, logging, the banner."""

from __future__ import annotations

import json
import re

import pytest

from amqtask.cli.boot import banner, boxed, split_bounds, split_names
from amqtask.errors import ConfigurationError
from tests.brokers import Broker
from tests.cli.running import Shop

pytestmark = pytest.mark.process

INFO = {
    "node": "n@h",
    "app": "shop",
    "broker": "amqp://guest:***@h:5672//",
    "version": "4.3.6",
    "queues": ["email", "images"],
    "pool": "prefork",
    "children": 4,
    "slots": 1,
    "most_children": 4,
    "prefetch": 4,
    "tasks": ["shop.add", "shop.fail"],
}


def test_the_names_of_queues() -> None:
    assert split_names(["a,b", " c , a", ""]) == ("a", "b", "c")
    assert split_names([]) == ()
    with pytest.raises(ConfigurationError, match="names no queue"):
        split_names([" , "])


def test_the_banner() -> None:
    assert banner(INFO, processes=2) == [
        ("node", "n@h"),
        ("app", "shop"),
        ("broker", "amqp://guest:***@h:5672// (RabbitMQ 4.3.6)"),
        ("queues", "email, images"),
        ("pool", "prefork, 4 processes \N{MULTIPLICATION SIGN} 1 slot (--processes 2)"),
        ("prefetch", "4 messages per process"),
        ("tasks", "shop.add\nshop.fail"),
    ]
    solo = dict(banner({**INFO, "pool": "solo", "children": 0, "most_children": 0, "tasks": []}))
    assert (solo["pool"], solo["tasks"]) == ("solo, in this process", "none")
    scaled = dict(banner({**INFO, "children": 0}))
    assert scaled["pool"] == "prefork, 0 to 4 processes \N{MULTIPLICATION SIGN} 1 slot"


def test_the_banner_in_its_box() -> None:
    assert boxed("a 1", [("node", "n@h"), ("tasks", "one\ntwo\x1b")], 80).splitlines() == [
        "╭───── a 1 ──────╮",
        "│ node   n@h     │",
        "│ tasks  one     │",
        "│        two\\x1b │",
        "╰────────────────╯",
    ]
    narrow = boxed("a", [("queues", "x" * 30)], 30).splitlines()
    assert [len(line) for line in narrow] == [30] * len(narrow)
    assert "".join(narrow).count("x") == 30


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("10,3", (10, 3)), ("3,10", (10, 3)), ("10", (10, 1)), (" 4 , 0 ", (4, 0)), ("1,1", (1, 1))],
)
def test_the_bounds_of_autoscale(text: str, bounds: tuple[int, int]) -> None:
    assert split_bounds(text) == bounds


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-P", "fibres"), "no pool 'fibres'"),
        (("-l", "loud"), "no log level 'loud'"),
        (("-n", "%x"), "'%x'"),
        (("-Q", ","), "names no queue"),
        (("--time-limit", "5", "--soft-time-limit", "9"), "must be shorter"),
        (("--time-limit", "-1"), "--time-limit must be more than 0."),
        (("--autoscale", "many"), "write --autoscale 10,3 for three to ten processes"),
        (("--autoscale", "1,2,3"), "is not MAX,MIN"),
        (("--autoscale", "0"), "its maximum is at least 1"),
        (("--autoscale", "4", "-P", "solo"), "--autoscale cannot add any"),
        (("-P", "threads", "-c", "9", "--prefetch-multiplier", "9000"), "AMQP knows none above"),
    ],
)
def test_a_wrong_flag_is_one_sentence(offline: Shop, flags: tuple[str, ...], message: str) -> None:
    found = offline.run("-A", "shop.tasks", "worker", *flags)

    assert found.returncode == 1
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "flag", ["--concurrency", "--processes", "--max-tasks-per-child", "--max-memory-per-child"]
)
def test_none_at_all_is_no_number(offline: Shop, flag: str) -> None:
    found = offline.run("-A", "shop.tasks", "worker", flag, "0")

    assert found.returncode == 2
    assert flag in found.stderr
    assert "greater than or equal to 1" in found.stderr


def test_a_worker_works_and_logs_json(shop: Shop) -> None:
    with shop.process(
        "-A", "shop.tasks", "worker", "-Q", f"{shop.email},{shop.images}", "-c", "2", "-n", "one"
    ) as worker:
        worker.says('"ready"')
        called = shop.run("-A", "shop.tasks", "call", "shop.tasks.add", "-a", "[1, 2]", "--wait")
        code = worker.end()

    assert (called.returncode, called.stdout) == (0, "3\n")
    assert code == 0
    lines = [json.loads(line) for line in worker.output.splitlines()]
    ready = next(line for line in lines if line["event"] == "worker ready")
    assert ready["queues"] == [shop.email, shop.images]
    assert ready["children"] == 2
    assert "shop.tasks.add" in ready["tasks"]
    assert "guest:guest" not in worker.output
    said = [line for line in lines if line["logger"] in ("shop.tasks", "somebody")]
    assert [line["event"] for line in said] == ["adding 1", "else"]
    assert len({line["task_id"] for line in said}) == 1
    for line in said:
        assert line["task_name"] == "shop.tasks.add"
        assert line["node"].startswith("one@")


def test_a_worker_on_a_terminal_shows_a_banner(shop: Shop) -> None:
    with shop.process("-A", "shop.tasks", "worker", "--no-json-logs", "-c", "1") as worker:
        worker.says("tasks")
        worker.says("[info     ]")
        code = worker.end()

    assert code == 0
    assert re.search(r"queues +" + shop.email, worker.output)
    assert "prefork, 1 process \N{MULTIPLICATION SIGN} 1 slot" in worker.output
    assert "shop.tasks.resize" in worker.output


def test_settings_stand_in_for_flags(shop: Shop) -> None:
    text = (shop.path / "shop/tasks.py").read_text()
    settings = "worker_concurrency=3, worker_prefetch_multiplier=7)"
    shop.write("shop/tasks.py", text.replace('"shop.yaml")', f'"shop.yaml", {settings}'))

    with shop.process("-A", "shop.tasks", "worker", "--json-logs") as worker:
        worker.says("worker ready")
        worker.end()
    records = [json.loads(line) for line in worker.output.splitlines() if line.startswith("{")]
    ready = next(record for record in records if record["event"] == "worker ready")
    assert (ready["children"], ready["prefetch"]) == (3, 7)

    with shop.process(
        "-A", "shop.tasks", "worker", "-c", "1", "--prefetch-multiplier", "2"
    ) as worker:
        worker.says("worker ready")
        worker.end()
    records = [json.loads(line) for line in worker.output.splitlines() if line.startswith("{")]
    ready = next(record for record in records if record["event"] == "worker ready")
    assert (ready["children"], ready["prefetch"]) == (1, 2)


def test_no_declare_only_checks(shop: Shop, broker: Broker) -> None:
    found = shop.run("-A", "shop.tasks", "worker", "-Q", shop.email, "--no-declare")

    assert found.returncode == 1
    assert f"There is no queue {shop.email!r} on the broker" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_flag_for_the_broker_comes_before_all_else(shop: Shop, broker: Broker) -> None:
    text = (shop.path / "shop/tasks.py").read_text()
    wrong = 'broker_url="amqp://guest:guest@127.0.0.1:1//")'
    shop.write("shop/tasks.py", text.replace('"shop.yaml")', f'"shop.yaml", {wrong}'))

    with shop.process("-A", "shop.tasks", "worker", "-b", broker.url, "-c", "1") as worker:
        worker.says('"ready"')
        called = shop.run(
            "call", "shop.tasks.add", "-A", "shop.tasks", "-b", broker.url, "-a", "[1,2]", "-w"
        )
        assert worker.end() == 0

    assert called.stdout == "3\n"


def test_a_refused_login_is_one_sentence(shop: Shop, broker: Broker) -> None:
    url = broker.url.replace("guest:guest@", "guest:secret-word@")

    found = shop.run("-A", "shop.tasks", "worker", "-b", url)

    assert found.returncode != 0
    assert "refused the login of user 'guest'" in found.stderr
    assert "secret-word" not in found.stderr
    assert "Traceback" not in found.stderr
