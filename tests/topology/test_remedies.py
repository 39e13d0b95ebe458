"""Commands for an administrator."""

from __future__ import annotations

import shlex

import pytest

from amqtask.topology import remedies


@pytest.mark.parametrize("name", ["orders", "it's", 'a "b" \\ c', "naïve $x"])
def test_a_shell_reads_names_as_they_are(name: str) -> None:
    command = shlex.split(remedies.delete_queue("/", name))

    assert command == ["rabbitmqctl", "delete_queue", "-p", "/", name]


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("orders", '<<"orders">>'),
        ("it's", '<<"it\'s">>'),
        ('a "b" \\ c', '<<"a \\"b\\" \\\\ c">>'),
        ("naïve", '<<"naïve"/utf8>>'),
    ],
)
def test_what_forgets_a_queue_is_one_word_of_erlang(name: str, literal: str) -> None:
    command = shlex.split(remedies.delete_lost_queue("shop", name, (3, 10, 8)))

    assert command == [
        "rabbitmqctl",
        "eval",
        f'rabbit_amqqueue:internal_delete(rabbit_misc:r(<<"shop">>, queue, {literal}), <<"cli">>).',
    ]


@pytest.mark.parametrize("release", [(4, 3, 6), (3, 13, 7), (0, 0, 0)])
def test_a_newer_broker_deletes_what_it_has_lost(release: tuple[int, int, int]) -> None:
    assert remedies.delete_lost_queue("/", "q", release) == remedies.delete_queue("/", "q")


def test_an_exchange_is_deleted_with_the_management_api() -> None:
    assert remedies.delete_exchange("/", "a b") == (
        "curl -u USER -X DELETE http://HOST:15672/api/exchanges/%2F/a%20b"
    )


def test_rights_are_given_to_a_user_of_any_name() -> None:
    command = shlex.split(remedies.grant("my shop", "o'neill"))

    assert command == ["rabbitmqctl", "set_permissions", "-p", "my shop", "o'neill", ".*", ".*", ".*"]  # fmt: skip
    assert shlex.split(remedies.create_vhost("my shop")) == ["rabbitmqctl", "add_vhost", "my shop"]


def test_why_a_queue_cannot_be_reached() -> None:
    sentence = remedies.absent_queue("/", "q", (4, 3, 6), "404 node 'n' is down. ")

    assert sentence == (
        "Queue 'q' is there and cannot be reached (404 node 'n' is down): start the node that has it; if that runs, the broker was "
        "killed and has lost the queue, so delete what is left of it (`rabbitmqctl delete_queue -p / q`) and declare it again."
    )
