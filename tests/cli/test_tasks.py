"""``amqtask call``."""

from __future__ import annotations

import json
import uuid

import pytest

from amqtask.cli.tasks import parse_json
from amqtask.errors import ConfigurationError
from tests.brokers import Broker
from tests.cli.running import Shop

pytestmark = pytest.mark.process


@pytest.mark.parametrize("text", ["", "{", "5", '"a"', "null", "{}", "[" * 100_000, "[1,]"])
def test_bad_json_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--args must be a JSON list") as caught:
        parse_json(text, "--args", list, "a JSON list")

    assert "\n" not in str(caught.value)


def test_bad_json_on_the_command_line(offline: Shop) -> None:
    for flags in (("--args", "1, 2"), ("--kwargs", "[]")):
        found = offline.run("call", "x.y", *flags)

        assert found.returncode == 1
        assert found.stderr.startswith(f"{flags[0]} must be a JSON ")
        assert len(found.stderr.splitlines()) == 1


def test_a_call_prints_its_id(shop: Shop, broker: Broker) -> None:
    shop.run("topology", "apply", "shop.yaml")
    wanted = str(uuid.uuid4())

    found = shop.run(
        "-A", "shop.tasks", "call", "shop.tasks.resize", "--kwargs", '{"key": "é"}', "--id", wanted,
        "--priority", "3", "--expires", "60",
    )  # fmt: skip

    assert (found.returncode, found.stdout) == (0, f"{wanted}\n"), found.stderr
    with broker.channel() as channel:
        _, properties, body = channel.basic_get(shop.images, auto_ack=True)
    assert properties is not None
    assert properties.headers is not None
    assert body is not None
    assert properties.headers["task"] == "shop.tasks.resize"
    assert properties.correlation_id == wanted
    assert properties.priority == 3
    assert properties.headers["expires"]
    assert json.loads(body)[:2] == [[], {"key": "é"}]


def test_a_call_by_name_without_an_app(shop: Shop, broker: Broker) -> None:
    shop.run("topology", "apply", "shop.yaml")

    routed = shop.run("call", "shop.tasks.anything", "-f", "shop.yaml", "-a", "[1]")
    direct = shop.run("call", "some.task", "--queue", shop.images)

    assert (routed.returncode, direct.returncode) == (0, 0), routed.stderr + direct.stderr
    with broker.channel() as channel:
        _, properties, _ = channel.basic_get(shop.email, auto_ack=True)
        assert properties is not None
        assert properties.headers is not None
        assert properties.headers["task"] == "shop.tasks.anything"
        assert channel.basic_get(shop.images, auto_ack=True)[0] is not None


def test_a_task_that_fails_prints_its_traceback(shop: Shop) -> None:
    with shop.process("-A", "shop.tasks", "worker", "-Q", shop.email, "-c", "1") as worker:
        worker.says('"ready"')
        found = shop.run(
            "-A",
            "shop.tasks",
            "call",
            "shop.tasks.fail",
            "-a",
            '["\\u001b[31mno"]',
            "--wait",
            "--timeout",
            "20",
        )
        worker.end()

    assert found.returncode == 1
    assert found.stdout == ""
    assert "Traceback (most recent call last):" in found.stderr
    assert "in fail" in found.stderr
    assert "ValueError: \\x1b[31mno" in found.stderr


def test_waiting_ends_with_the_timeout(shop: Shop) -> None:
    shop.run("topology", "apply", "shop.yaml")

    found = shop.run(
        "-A", "shop.tasks", "call", "shop.tasks.add", "-a", "[1, 2]", "--wait", "--timeout", "0.2"
    )

    assert found.returncode == 1
    assert "within 0.2 s" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shop.tasks.add", "-a", "[1, 2, 3]"), "too many positional arguments"),
        (("shop.tasks.add", "-k", '{"z": 1}'), "add()"),
        (("shop.tasks.add", "-a", "[1, 2]", "--queue", "nowhere"), "nowhere"),
        (("shop.tasks.add", "-a", "[1, 2]", "--id", ""), "task_id"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_sent(
    shop: Shop, arguments: tuple[str, ...], message: str
) -> None:
    shop.run("topology", "apply", "shop.yaml")

    found = shop.run("-A", "shop.tasks", "call", *arguments)

    assert found.returncode == 1
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_a_near_name_is_suggested(shop: Shop) -> None:
    shop.run("topology", "apply", "shop.yaml")

    found = shop.run("-A", "shop.tasks", "call", "shop.tasks.ad", "-a", "[1, 2]")

    assert "has no task 'shop.tasks.ad'; did you mean 'shop.tasks.add'?" in found.stderr


def test_without_a_broker(offline: Shop) -> None:
    text = (offline.path / "shop/tasks.py").read_text()
    offline.write(
        "shop/tasks.py", text.replace('"shop.yaml")', '"shop.yaml", publish_timeout=1.0)')
    )
    found = offline.run("-A", "shop.tasks", "call", "shop.tasks.add", "-a", "[1, 2]")

    assert found.returncode == 1
    assert "127.0.0.1:1" in found.stderr
    assert "secret-word" not in found.stderr
    assert "Traceback" not in found.stderr
