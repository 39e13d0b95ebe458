"""``amqtask topology``."""

from __future__ import annotations

import json

import pytest

from amqtask.cli.topology import parse_headers
from amqtask.errors import ConfigurationError
from tests.brokers import Broker
from tests.cli.running import Folder, Shop

pytestmark = pytest.mark.process


def test_validate(offline: Shop) -> None:
    found = offline.run("topology", "validate", "shop.yaml")

    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == (
        "shop.yaml is valid: 1 exchange, 2 queues and 2 more for dead letters, 2 bindings, 2 routes.\n"
    )
    assert offline.run("topology", "validate", "-A", "shop.tasks").returncode == 0


def test_validate_prints_every_problem(folder: Folder) -> None:
    folder.write(
        "bad.yaml",
        """\
        version: 1
        queues:
          a: {type: quorumm}
          b: {bindings: [{exchange: nowhere}]}
        """,
    )

    found = folder.run("topology", "validate", "bad.yaml")

    assert found.returncode == 1
    lines = found.stderr.splitlines()
    assert lines[0].startswith("bad.yaml:3:")
    assert lines[1].startswith("bad.yaml:4:")
    assert "quorum" in lines[0]
    assert "nowhere" in lines[1]


def test_validate_names_the_queues_of_which_nobody_is_told(folder: Folder) -> None:
    folder.write("t.yaml", "version: 1\nqueues: {a: {dead_letter: false}, b: {}}\n")

    found = folder.run("topology", "validate", "t.yaml")

    assert found.returncode == 0
    assert (
        "Nobody is told of tasks that the broker drops from 'a': give it dead_letter: true"
        in found.stderr
    )


def test_validate_for_a_version(folder: Folder) -> None:
    folder.write("t.yaml", "version: 1\nqueues: {a: {type: quorum, consumer_timeout: 2h}}\n")

    old = folder.run("topology", "validate", "t.yaml", "--rabbitmq", "3.10")
    ancient = folder.run("topology", "validate", "t.yaml", "--rabbitmq", "3.7.28")
    wrong = folder.run("topology", "validate", "t.yaml", "--rabbitmq", "new")

    assert (old.returncode, ancient.returncode, wrong.returncode) == (0, 1, 2)
    assert old.stderr.startswith("Warning: Queue 'a'")
    assert "quorum queue, which RabbitMQ has since 3.8" in ancient.stderr


def test_a_missing_file(folder: Folder) -> None:
    for command in (["validate"], ["show"], ["apply"], ["explain", "a.b", "-f"]):
        found = folder.run("topology", *command, "nope.yaml")

        assert found.returncode == 1
        assert "nope.yaml: there is no such file" in found.stderr


def test_show(offline: Shop) -> None:
    found = offline.run("topology", "show", "shop.yaml")

    assert found.stdout.splitlines() == [
        "shop.yaml",
        f"├── exchange {offline.exchange} (topic)",
        f"│   ├── email.# → {offline.email} (classic, dead letters to {offline.email}.dead)",
        f"│   └── images.# → {offline.images} (classic, max_priority 9, dead letters to {offline.images}.dead)",
        "├── (default exchange, by the queue's name)",
        f"│   ├── {offline.email}.dead (classic, holds dead letters)",
        f"│   └── {offline.images}.dead (classic, holds dead letters)",
        "├── routes",
        f"│   ├── shop.tasks.resize → exchange {offline.exchange}, key images.{{name}}, priority 5",
        f"│   └── shop.tasks.* → exchange {offline.exchange}, key email.{{name}}",
        "└── delay ladder amqtask.shop.delay.00 … 27",
    ]


def test_show_on_a_terminal_and_without_colour(offline: Shop) -> None:
    code, coloured = offline.run_on_terminal("topology", "show", "shop.yaml")
    _, plain = offline.run_on_terminal("topology", "show", "shop.yaml", NO_COLOR="1")

    assert code == 0
    assert "\x1b[36m" in coloured
    assert "\x1b[36m" not in plain
    assert f"exchange {offline.exchange}" in plain


def test_show_as_json(offline: Shop) -> None:
    found = json.loads(offline.run("topology", "show", "shop.yaml", "--json").stdout)

    assert [queue["name"] for queue in found["queues"]][:2] == [offline.email, offline.images]


def test_explain_a_task(offline: Shop) -> None:
    found = offline.run("-A", "shop.tasks", "topology", "explain", "shop.tasks.resize")
    same = offline.run("topology", "explain", "shop.yaml", "shop.tasks.resize")

    assert found.returncode == same.returncode == 0
    assert f"{offline.exchange} → queue {offline.images}: binding images.#" in found.stdout
    assert "shop.yaml: routes[0], priority 5." in found.stdout
    assert offline.email not in found.stdout


def test_explain_a_task_without_a_route(offline: Shop) -> None:
    found = offline.run("topology", "explain", "other.task", "-f", "shop.yaml")

    assert found.returncode == 1
    assert "No route matches task 'other.task'" in found.stderr


def test_explain_a_message(offline: Shop) -> None:
    message = ("topology", "explain", "-f", "shop.yaml", "--exchange")

    found = offline.run(*message, offline.exchange, "--key", "email.a.b")
    nowhere = offline.run(*message, offline.exchange, "--key", "other")
    by_name = offline.run(*message, "", "--key", f"{offline.email}.dead")
    unknown = offline.run(*message, offline.exchange[:-1], "--key", "x")

    assert found.returncode == 0
    assert offline.email in found.stdout
    assert nowhere.returncode == 1
    assert "reaches no queue" in nowhere.stderr
    assert by_name.returncode == 0
    assert unknown.returncode == 1
    assert f"did you mean {offline.exchange!r}?" in unknown.stderr


def test_explain_a_message_by_its_headers(folder: Folder) -> None:
    folder.write(
        "t.yaml",
        """\
        version: 1
        exchanges: {h: {type: headers}}
        queues:
          q: {bindings: [{exchange: h, arguments: {size: 5, big: true, name: x}}]}
        """,
    )
    headers = ("-H", "size=5", "-H", "big=true", "-H", "name=x")

    assert folder.run("topology", "explain", "-f", "t.yaml", "-x", "h", *headers).returncode == 0
    assert (
        folder.run("topology", "explain", "-f", "t.yaml", "-x", "h", *headers[:4]).returncode == 1
    )


def test_headers() -> None:
    assert parse_headers(["a=1", "b=1.5", "c=true", "d=x=y", 'e="1"', "f=", "g=null"]) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": "x=y",
        "e": '"1"',
        "f": "",
        "g": "null",
    }
    with pytest.raises(ConfigurationError, match="NAME=VALUE"):
        parse_headers(["nothing"])


def test_apply_twice_changes_nothing(shop: Shop, broker: Broker) -> None:
    first = shop.run("topology", "apply", "shop.yaml")
    with broker.channel() as channel:
        channel.basic_publish(shop.exchange, "email.x", b"kept")
    second = shop.run("topology", "apply", "-A", "shop.tasks")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"+ queue {shop.email} (classic)" in first.stdout
    assert f"binding {shop.exchange} → queue {shop.images}, key images.#" in first.stdout
    assert "+" not in [line[:1] for line in second.stdout.splitlines()]
    assert f"= queue {shop.email} (classic)" in second.stdout
    assert "= delay ladder amqtask.shop.delay.00 … 27, 2 queues bound" in second.stdout
    assert "= stream amqtask.verdicts" in second.stdout
    third = shop.run("topology", "apply", "shop.yaml", "--no-delays", "--no-verdicts")
    assert "delay" not in third.stdout
    assert "verdicts" not in third.stdout
    with broker.channel() as channel:
        assert channel.queue_declare(shop.email, passive=True).method.message_count == 1


def test_a_queue_that_differs_is_one_error_and_nothing_is_made(shop: Shop, broker: Broker) -> None:
    with broker.channel() as channel:
        channel.queue_declare(
            shop.images,
            durable=True,
            arguments={
                "x-queue-type": "classic",
                "x-max-priority": 3,
                "x-dead-letter-exchange": "amqtask.dropped",
                "x-dead-letter-routing-key": f"{shop.images}.dead",
            },
        )

    found = shop.run("topology", "apply", "shop.yaml")

    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
    for word in (shop.images, "x-max-priority", "3", "9"):
        assert word in found.stderr
    listed = shop.run("queue", "ls", "-f", "shop.yaml")
    assert [line.split()[0] for line in listed.stdout.splitlines() if "missing" in line] == [
        shop.email,
        f"{shop.email}.dead",
        f"{shop.images}.dead",
    ]


def test_apply_without_a_broker(offline: Shop) -> None:
    found = offline.run("topology", "apply", "shop.yaml")

    assert found.returncode == 1
    assert found.stderr.startswith("No RabbitMQ answers at 127.0.0.1:1 ")
    assert "secret-word" not in found.stderr


def test_apply_with_a_wrong_login(shop: Shop, broker: Broker) -> None:
    url = broker.url.replace("guest:guest@", "guest:secret-word@")

    found = shop.run("topology", "apply", "shop.yaml", "-b", url)

    assert found.returncode == 1
    assert "refused the login of user 'guest'" in found.stderr
    assert "secret-word" not in found.stderr
