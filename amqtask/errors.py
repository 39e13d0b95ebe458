"""Every error amqtask raises, as one tree, and the directives that steer a task without being errors.

::

    Exception
    ├── AmqtaskError
    │   ├── ConfigurationError            what the user wrote cannot work
    │   │   ├── AlreadyRegistered         two functions claim one task name
    │   │   ├── AppNotFound               the -A argument names no App
    │   │   ├── NoRoute                   no route leads a task anywhere
    │   │   ├── TopologyError             a topology file has mistakes (all of them listed)
    │   │   ├── TopologyConflict          a live queue or exchange differs from the declared one
    │   │   └── Unsupported               this broker or pool cannot do what is asked
    │   ├── MessageError                  a message cannot be made, read or accepted
    │   │   ├── EncodeError               arguments or a result that the serializer cannot write
    │   │   ├── DecodeError               bytes that are no task message
    │   │   ├── ContentRefused            a content type outside accept_content
    │   │   ├── PayloadTooLarge           body or headers above the limit, found before sending
    │   │   └── NotRegistered             a task name this app does not have
    │   ├── BrokerError                   the broker or the way to it
    │   │   ├── ConnectFailed             no broker answered at the address
    │   │   │   ├── LoginRefused          a broker answered and refused user, password or vhost
    │   │   │   └── CertificateRefused    what answered has a certificate that is not to be believed
    │   │   ├── ConnectionLost            the connection went away under an operation
    │   │   ├── OperationRefused          the broker closed the channel on a request (404, 403, 405, 406)
    │   │   ├── PublishNacked             the broker refused a message (a full queue)
    │   │   ├── Unroutable                no queue is bound for a message
    │   │   ├── PublishBlocked            the broker holds publishers back (memory or disk alarm)
    │   │   └── ConfirmTimeout            no confirm within the publish timeout
    │   ├── ResultError
    │   │   ├── IncompleteStream          what a task started is not known before it has ended
    │   │   ├── ResultTimeout             get(timeout) ran out (a TimeoutError too)
    │   │   └── TaskFailed                the task failed with an exception this process cannot rebuild
    │   ├── WorkerError
    │   │   ├── BootFailed                the worker cannot start
    │   │   └── WorkerLostError           the process that ran a task died
    │   ├── SoftTimeLimitExceeded         raised inside a task at its soft limit
    │   ├── TimeLimitExceeded             result of a task ended at its hard limit
    │   ├── MaxRetriesExceededError       a task asked for one retry too many
    │   └── TaskRevokedError              result of a task that was revoked or had expired
    └── Directive                         raised by a task to steer, never a failure
        ├── Ignore                        settle without a result
        ├── Reject                        reject the message, optionally to run again
        └── Retry                         run the task again later

Messages are one sentence: what is wrong and what to do. They never hold a password.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime


class AmqtaskError(Exception):
    """Base of every error amqtask raises on purpose."""


# ---------------------------------------------------------------- configuration


class ConfigurationError(AmqtaskError):
    """What the user configured cannot work; the message names the setting and the remedy."""


class AlreadyRegistered(ConfigurationError):
    """Two different functions claim one task name."""


class AppNotFound(ConfigurationError):
    """The application named by ``-A`` cannot be imported or holds no App."""


class NoRoute(ConfigurationError):
    """No route of the topology or the settings leads this task to a queue."""


class TopologyError(ConfigurationError):
    """A topology has mistakes.

    Args:
        problems: one line per mistake, each ``file:line:column: key.path: what is wrong``.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type[TopologyError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class TopologyConflict(ConfigurationError):
    """A queue or an exchange on the broker differs from what the topology declares."""


class Unsupported(ConfigurationError):
    """This broker or this pool cannot do what is asked; the message says which version or pool can."""


# ---------------------------------------------------------------- messages


class MessageError(AmqtaskError):
    """A message cannot be made, read or accepted."""


class EncodeError(MessageError):
    """Arguments or a result cannot be written by the serializer."""


class DecodeError(MessageError):
    """The bytes received are no task message; the text says where they stop being one."""


class ContentRefused(MessageError):
    """The content type or compression is not in ``accept_content``."""


class PayloadTooLarge(MessageError):
    """The body or the headers are above the limit; nothing was sent."""


class NotRegistered(MessageError):
    """No task of this name is registered with the app."""


# ---------------------------------------------------------------- broker


class BrokerError(AmqtaskError):
    """The broker, or the way to it, failed an operation."""


class ConnectFailed(BrokerError):
    """No broker answered; the message holds host, port and the reason, never the password."""


class LoginRefused(ConnectFailed):
    """A broker answered and refused the user, the password or the virtual host."""


class CertificateRefused(ConnectFailed):
    """The broker's certificate has expired, is for another host, or comes from an authority that nobody here knows."""


class ConnectionLost(BrokerError):
    """The connection closed under an operation."""


class OperationRefused(BrokerError):
    """The broker answered an operation with a channel error.

    Args:
        code: AMQP reply code (403, 404, 405, 406 …).
        text: the broker's reply text.
        message: what to tell the user; the reply text when left out.
    """

    def __init__(self, code: int, text: str, message: str | None = None) -> None:
        self.code = code
        self.text = text
        super().__init__(message or f"The broker refused the operation: {code} {text}.")

    def __reduce__(self) -> tuple[type[OperationRefused], tuple[int, str, str]]:
        return type(self), (self.code, self.text, str(self))


class PublishNacked(BrokerError):
    """The broker refused the message with ``basic.nack``: a queue is full or failed."""


class Unroutable(BrokerError):
    """The broker returned the message: no queue is bound for this exchange and routing key."""


class PublishBlocked(BrokerError):
    """The broker holds publishers back (``connection.blocked``) and the publish timeout ran out."""


class ConfirmTimeout(BrokerError):
    """The broker did not confirm within the publish timeout; the task may or may not be queued."""


# ---------------------------------------------------------------- results


class ResultError(AmqtaskError):
    """A result cannot be had."""


class IncompleteStream(ResultError):
    """A walk over what a task started came to one that has not ended."""


class ResultTimeout(ResultError, builtins.TimeoutError):
    """No result arrived within the timeout given to ``get``."""


class TaskFailed(ResultError):
    """The task failed, and its exception class does not exist in this process.

    Args:
        exc_type: qualified name of the remote class.
        exc_module: module of the remote class.
        message: its text.
    """

    def __init__(self, exc_type: str, exc_module: str | None, message: str) -> None:
        self.exc_type = exc_type
        self.exc_module = exc_module
        self.message = message
        where = f"{exc_module}.{exc_type}" if exc_module else exc_type
        super().__init__(f"{where}: {message}" if message else where)

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, str | None, str]]:
        return type(self), (self.exc_type, self.exc_module, self.message)


# ---------------------------------------------------------------- worker


class WorkerError(AmqtaskError):
    """A worker node cannot do its work."""


class BootFailed(WorkerError):
    """The worker cannot start; the message is one sentence with the remedy."""


class WorkerLostError(WorkerError):
    """The process that ran the task died."""


class SoftTimeLimitExceeded(AmqtaskError):
    """Raised inside a task when its soft time limit passes, so that it can clean up."""


class TimeLimitExceeded(AmqtaskError):
    """The task was ended at its hard time limit."""


class TaskRevokedError(AmqtaskError):
    """The task was revoked, or had expired before it could start."""


class ChordError(AmqtaskError):
    """A part of a chord has failed, and so its body does not run."""


class MaxRetriesExceededError(AmqtaskError):
    """A task asked to be retried beyond its limit, and named no exception to fail with.

    Args:
        args: the text.
        task_args: positional arguments the next attempt would have had.
        task_kwargs: keyword arguments it would have had.
    """

    def __init__(
        self,
        *args: object,
        task_args: Sequence[object] = (),
        task_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        self.task_args = task_args
        self.task_kwargs: Mapping[str, object] = {} if task_kwargs is None else task_kwargs
        super().__init__(*args)


# ---------------------------------------------------------------- directives


class Directive(Exception):
    """Base of what a task raises to steer its own message; never reported as a failure."""


class Ignore(Directive):
    """Settle the message without storing a result."""


class Reject(Directive):
    """Reject the message: to the dead-letter queue, or back into its queue with ``requeue``.

    Args:
        reason: shown in the log and kept with the dead letter.
        requeue: give the message back to its queue to run again.
    """

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)


class Retry(Directive):
    """Run the task again later. ``self.retry()`` raises it; a task may raise one of its own.

    Args:
        message: replaces the composed text.
        exc: why; an exception, or a text for people.
        when: seconds from now or a moment with a time zone; ``None`` is the task's ``default_retry_delay``.
        is_eager: the task runs by ``apply()``: the next attempt follows at once, here.
        sig: what the next attempt is, when ``self.retry()`` made it.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: object = None,
    ) -> None:
        self.message = message
        self.exc = exc if isinstance(exc, BaseException) else None
        self.excs = repr(exc) if isinstance(exc, BaseException) else exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """When, for people: ``in 3s`` or ``at 2026-03-01 12:00:00+00:00``."""
        return f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.excs}" if self.excs else f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[type[Retry], tuple[object, ...]]:
        return type(self), (self.message, self.exc or self.excs, self.when)
