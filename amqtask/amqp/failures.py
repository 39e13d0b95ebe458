"""What went wrong between us and the broker, as errors for users. Both adapters say it with the same words."""

from __future__ import annotations

import re
import ssl

from amqtask.amqp.address import Address
from amqtask.core.message import Publication
from amqtask.core.outgoing import Ending, Refused, Why
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    CertificateRefused,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionLost,
    LoginRefused,
    OperationRefused,
    PublishBlocked,
    PublishNacked,
    Unroutable,
)
from amqtask.topology import remedies

ACCESS_REFUSED = 403
NOT_FOUND = 404
NOT_ALLOWED = 530
INTERNAL_ERROR = "INTERNAL_ERROR"  # how a broker closes a connection when it has failed itself: 541
# With these the broker ends the connection over what was asked, and would again: unlike 320 and 541, which are its own trouble.
REFUSALS = frozenset({402, 403, 501, 502, 503, 504, 505, 530, 540})

# How 404 begins for a queue that there is: "home node 'N' of durable queue 'Q' in vhost 'V' is down or inaccessible", "queue 'Q'
# … process is stopped by supervisor" or "… has crashed and failed to restart", "failed to perform operation on queue 'Q' … due
# to timeout". For one that is not there: "no queue 'Q' …". Only the beginning tells: names hold any words, and long ones leave
# no room for the end.
_ABSENT = re.compile(r"(NOT_FOUND - )?(home node|queue|failed to perform operation on) ")

# What 530 says where a virtual host or a user has as many connections as it may have.
_LIMIT = re.compile(r"(\w+ )?connection limit \(\d+\) is reached")


def unreachable(address: Address, reason: object) -> ConnectFailed:
    """Nobody answers there."""
    return ConnectFailed(
        f"No RabbitMQ answers at {address.endpoint} ({reason}): is it running, and is the address right?"
    )


def speechless(address: Address) -> ConnectFailed:
    """Something takes connections there and does not say a word of AMQP, or not in time."""
    return ConnectFailed(
        f"What listens at {address.endpoint} does not answer as RabbitMQ does: is it a broker that hangs, or the port of "
        "something else (AMQP's is 5672, with TLS 5671)?"
    )


def turned_away(address: Address, reason: object) -> ConnectFailed:
    """Somebody answers there, and ended the login for a reason that is not ours."""
    return ConnectFailed(f"RabbitMQ at {address.endpoint} takes no connection now: {reason}.")


def tls_failed(address: Address, reason: object) -> ConnectFailed:
    """Somebody answers there, and no TLS session came of it."""
    refused = isinstance(reason, ssl.SSLCertVerificationError)
    kind = CertificateRefused if refused else ConnectFailed
    return kind(f"TLS with {address.endpoint} failed: {reason}.")


def login_refused(address: Address, code: int, text: str) -> ConnectFailed:
    """A broker answered and refused user, password or virtual host; or one connection more than a limit allows."""
    limit = _LIMIT.search(text)
    if limit is not None:  # passes when others close theirs
        return turned_away(address, limit[0])
    if code == ACCESS_REFUSED:
        return LoginRefused(
            f"RabbitMQ at {address.endpoint} refused the login of user {address.user!r}: check user and password."
        )
    return LoginRefused(
        f"RabbitMQ at {address.endpoint} refused user {address.user!r} access to the virtual host "
        f"{address.vhost!r}: create it (`{remedies.create_vhost(address.vhost)}`) or grant permissions "
        f"(`{remedies.grant(address.vhost, address.user)}`)."
    )


def absent(error: OperationRefused) -> bool:
    """Whether a queue is there and only cannot be reached at present."""
    return error.code == NOT_FOUND and _ABSENT.match(error.text) is not None


def temporary(error: BrokerError) -> bool:
    """Whether what failed may work later without anybody changing what was asked for."""
    if isinstance(error, OperationRefused):
        return absent(error)
    return isinstance(error, ConnectFailed | ConnectionLost) and not isinstance(
        error, LoginRefused | CertificateRefused
    )


def consumer_refused(
    queue: str, error: OperationRefused, address: Address, release: tuple[int, int, int]
) -> str:
    """Why a queue cannot be consumed, as a sentence.

    Args:
        queue: its name.
        error: what the broker answered.
        address: of the broker.
        release: its version.
    """
    text = error.text.strip().rstrip(".")
    if error.code == NOT_FOUND:
        if absent(error):
            return remedies.absent_queue(address.vhost, queue, release, f"{error.code} {text}")
        return f"Queue {queue!r} is not on the broker ({error.code} {text}): declare it, or run `amqtask topology apply`."
    if error.code == ACCESS_REFUSED and "exclusive" not in text:
        return (
            f"Queue {queue!r} may not be read ({error.code} {text}): grant the user read permission, "
            f"on everything with `{remedies.grant(address.vhost, address.user)}`."
        )
    return f"Queue {queue!r} cannot be consumed: {error.code} {text}."


def lost(address: Address, reason: object) -> ConnectionLost:
    """An open connection ended."""
    return ConnectionLost(f"The connection to RabbitMQ at {address.endpoint} was lost: {reason}.")


def nacked(publication: Publication) -> PublishNacked:
    """The broker answered a publish with ``basic.nack``."""
    return PublishNacked(
        f"RabbitMQ refused the message for exchange {publication.exchange!r}, routing key "
        f"{publication.routing_key!r}: a queue it leads to is full or has failed."
    )


def unroutable(publication: Publication, reason: str) -> Unroutable:
    """The broker returned a mandatory message, for a reason like ``312 NO_ROUTE``."""
    return Unroutable(
        f"No queue is bound to exchange {publication.exchange!r} for routing key "
        f"{publication.routing_key!r} ({reason}); declare the queue or run `amqtask topology apply`."
    )


def refused(publication: Publication, error: OperationRefused) -> BrokerError:
    """The broker closed the channel over one message."""
    if error.code == NOT_FOUND:
        return Unroutable(
            f"Exchange {publication.exchange!r} does not exist on the broker: run `amqtask topology apply` ({error.text})."
        )
    return OperationRefused(
        error.code,
        error.text,
        f"RabbitMQ refused a message for exchange {publication.exchange!r}: {error.code} {error.text}.",
    )


def ended(publication: Publication, why: Why, late: BrokerError) -> AmqtaskError | None:
    """How a publication ended, as the error its caller gets; ``None`` when it was confirmed.

    Args:
        publication: what was published.
        why: how it ended.
        late: what it means when its time is over.
    """
    if why is None or isinstance(why, AmqtaskError):
        return why
    if isinstance(why, Refused):
        return refused(publication, why.error)
    if isinstance(why, str):
        return unroutable(publication, why)
    return nacked(publication) if why is Ending.NACKED else late


def blocked(address: Address, reason: str) -> PublishBlocked:
    """The publish timeout passed under ``connection.blocked``."""
    return PublishBlocked(
        f"RabbitMQ at {address.endpoint} blocks publishers ({reason}); free memory or disk on the broker."
    )


def unconfirmed(address: Address) -> ConfirmTimeout:
    """The publish timeout passed without a confirm."""
    return ConfirmTimeout(
        f"RabbitMQ at {address.endpoint} did not confirm the message in time; it may or may not be queued."
    )
