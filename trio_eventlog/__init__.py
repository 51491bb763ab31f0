"""A structured-concurrency event log for Trio programs.

The package is built in floors. A lower one never imports an upper one, which a test checks. What stands
beside them uses public names only, and the helpers :func:`adopt_public_names` and :func:`how_to_install`.
Three modules use something that the rest of their floor does not: the lock file has a thread lock, since it
is used from any thread; the events import a package for ids, when the first id is made; the retry policy has
``random.random`` as the default of an argument.

* 0, values (attrs, the codecs and the standard library): ``_numbers _util _model _lock_file _speedups``,
  and ``typed``
* 1, the engine (no Trio, no I/O; time and chance are arguments): ``_engine``
* 2, the contract: ``abc _abilities _answers _declared``, and what several Trio parts need:
  ``_ki _own_work _pauses _threads``
* 3, readers (Trio): ``_reading``, public as ``reading``; and the stores, which know neither each other nor
  the log: ``stores``, in which ``open_store`` alone knows them all
* 4, the log, which has the store append: ``_log``
* beside them: ``audit cli console logging masking mobkit recorder retention testing __main__``
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Final as _Final

from trio_eventlog._engine._policy import RetryPolicy
from trio_eventlog._log._event_log import EventLog
from trio_eventlog._log._open import open_event_log
from trio_eventlog._log._settings import Filter, OnFailure, Transform
from trio_eventlog._model._errors import (
    CodecError,
    EventLogBroken,
    EventLogError,
    EventRejected,
    EventsLost,
    EventsPruned,
    LogBusy,
    LogNotFound,
    LossReason,
    SequenceConflict,
    SpillError,
    StaleCursor,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)
from trio_eventlog._model._events import AgentEvent, EventEnvelope, ModuleEvent, PersistedEvent, UnifiedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import (
    AppendFailureReport,
    LogState,
    LogStatistics,
    LossReport,
    Report,
    RevertReport,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
)
from trio_eventlog._model._sealed import payload_json
from trio_eventlog._model._wire import from_json, to_json
from trio_eventlog._reading._subscription import Subscription
from trio_eventlog._speedups import core as _core
from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.abc import EventStore

__all__ = [
    "HAS_CORE",
    "AgentEvent",
    "AppendFailureReport",
    "CodecError",
    "EventEnvelope",
    "EventLog",
    "EventLogBroken",
    "EventLogError",
    "EventQuery",
    "EventRejected",
    "EventStore",
    "EventsLost",
    "EventsPruned",
    "Filter",
    "LogBusy",
    "LogNotFound",
    "LogState",
    "LogStatistics",
    "LossReason",
    "LossReport",
    "ModuleEvent",
    "OnFailure",
    "PersistedEvent",
    "Report",
    "RetryPolicy",
    "RevertReport",
    "SequenceConflict",
    "SpillDamageReport",
    "SpillError",
    "SpillFailureReport",
    "SpillReport",
    "StaleCursor",
    "StoreError",
    "StoreUnusable",
    "StoreWentBack",
    "Subscription",
    "Transform",
    "UnifiedEvent",
    "from_json",
    "open_event_log",
    "payload_json",
    "to_json",
]

_adopt_public_names(globals())

HAS_CORE: _Final[bool] = _core is not None
"""Whether the core in C was compiled for this Python, and is used. Without it, everything is the same, and
slower. The environment variable ``TRIO_EVENTLOG_PURE=1`` switches it off."""

__version__: str
"""The version of the installed package."""

if not _TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        # Looking for what is installed takes longer than all that a program needs to start.
        if name == "__version__":
            from importlib.metadata import version as _version  # noqa: PLC0415 - as above

            return _version("trio-eventlog")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
