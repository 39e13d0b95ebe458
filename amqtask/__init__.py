"""amqtask: background tasks on RabbitMQ.

::

    from amqtask import App

    app = App("shop", topology="routing/shop.yaml")

    @app.task
    def send_receipt(order_id: int) -> str: ...

    send_receipt.delay(42).get(timeout=10)

Everything public is listed here; what is not may move. Importing it loads no AMQP client: that happens with the first use.
"""

from __future__ import annotations

from amqtask.app import App
from amqtask.canvas.maps import chunks, xmap, xstarmap
from amqtask.canvas.primitives import chain, chord, group
from amqtask.canvas.signature import Signature, maybe_signature, signature, subtask
from amqtask.canvas.stamping import StampingVisitor
from amqtask.control import Control
from amqtask.core.result import RemoteTraceback
from amqtask.core.retry import RetryPolicy
from amqtask.errors import (
    AlreadyRegistered,
    AmqtaskError,
    AppNotFound,
    BootFailed,
    BrokerError,
    CertificateRefused,
    ChordError,
    ConfigurationError,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    DecodeError,
    Directive,
    EncodeError,
    Ignore,
    IncompleteStream,
    LoginRefused,
    MaxRetriesExceededError,
    MessageError,
    NoRoute,
    NotRegistered,
    OperationRefused,
    PayloadTooLarge,
    PublishBlocked,
    PublishNacked,
    Reject,
    ResultError,
    ResultTimeout,
    Retry,
    SoftTimeLimitExceeded,
    TaskFailed,
    TaskRevokedError,
    TimeLimitExceeded,
    TopologyConflict,
    TopologyError,
    Unroutable,
    Unsupported,
    WorkerError,
    WorkerLostError,
)
from amqtask.log import get_task_logger
from amqtask.request import Request, is_aborted
from amqtask.results.eager import EagerResult
from amqtask.results.group import GroupResult
from amqtask.results.handle import AsyncResult
from amqtask.results.result_set import ResultSet
from amqtask.results.tree import result_from_tuple
from amqtask.settings import Settings, TaskRoute
from amqtask.task import AbortableTask, CoroutineTask, Task

__version__ = "0.1.0"

__all__ = [
    "AbortableTask",
    "AlreadyRegistered",
    "AmqtaskError",
    "App",
    "AppNotFound",
    "AsyncResult",
    "BootFailed",
    "BrokerError",
    "CertificateRefused",
    "ChordError",
    "ConfigurationError",
    "ConfirmTimeout",
    "ConnectFailed",
    "ConnectionLost",
    "ContentRefused",
    "Control",
    "CoroutineTask",
    "DecodeError",
    "Directive",
    "EagerResult",
    "EncodeError",
    "GroupResult",
    "Ignore",
    "IncompleteStream",
    "LoginRefused",
    "MaxRetriesExceededError",
    "MessageError",
    "NoRoute",
    "NotRegistered",
    "OperationRefused",
    "PayloadTooLarge",
    "PublishBlocked",
    "PublishNacked",
    "Reject",
    "RemoteTraceback",
    "Request",
    "ResultError",
    "ResultSet",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "Settings",
    "Signature",
    "SoftTimeLimitExceeded",
    "StampingVisitor",
    "Task",
    "TaskFailed",
    "TaskRevokedError",
    "TaskRoute",
    "TimeLimitExceeded",
    "TopologyConflict",
    "TopologyError",
    "Unroutable",
    "Unsupported",
    "WorkerError",
    "WorkerLostError",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "get_task_logger",
    "group",
    "is_aborted",
    "maybe_signature",
    "result_from_tuple",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
