"""A structured-concurrency event log for Trio programs.

Floors; a lower one never imports an upper one, and a test walks the imports:

* 0, values (attrs and the standard library): ``_events _query _errors _lockfile _policy
  _reports _util``
* 1, the engine (pure: no Trio, no I/O, time and chance are arguments): ``_codec _event_types
  _durable _recent _retry_buffer _scheduler``
* 2, the contract: ``abc``
* 3, Trio: ``_handover _settings _failure_log _spill_file _subscription _merge _log``; ``_log`` is the
  only place that awaits ``append_batch``
* 4, stores (they know floors 0 to 2 and how to give way to threads, never each other, never the log):
  ``stores``, in which ``open_store`` alone knows them all
* beside them, on the public names alone: ``cli logging recorder testing __main__``
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from trio_eventlog._codec import from_json as from_json
from trio_eventlog._codec import to_json as to_json
from trio_eventlog._errors import CodecError as CodecError
from trio_eventlog._errors import EventLogBroken as EventLogBroken
from trio_eventlog._errors import EventLogError as EventLogError
from trio_eventlog._errors import EventRejected as EventRejected
from trio_eventlog._errors import EventsLost as EventsLost
from trio_eventlog._errors import EventsPruned as EventsPruned
from trio_eventlog._errors import LogBusy as LogBusy
from trio_eventlog._errors import LogNotFound as LogNotFound
from trio_eventlog._errors import SequenceConflict as SequenceConflict
from trio_eventlog._errors import SpillError as SpillError
from trio_eventlog._errors import StaleCursor as StaleCursor
from trio_eventlog._errors import StoreError as StoreError
from trio_eventlog._errors import StoreUnusable as StoreUnusable
from trio_eventlog._errors import StoreWentBack as StoreWentBack
from trio_eventlog._events import AgentEvent as AgentEvent
from trio_eventlog._events import EventEnvelope as EventEnvelope
from trio_eventlog._events import ModuleEvent as ModuleEvent
from trio_eventlog._events import PersistedEvent as PersistedEvent
from trio_eventlog._events import UnifiedEvent as UnifiedEvent
from trio_eventlog._log import EventLog as EventLog
from trio_eventlog._log import open_event_log as open_event_log
from trio_eventlog._policy import RetryPolicy as RetryPolicy
from trio_eventlog._query import EventQuery as EventQuery
from trio_eventlog._reports import AppendFailure as AppendFailure
from trio_eventlog._reports import EventLoss as EventLoss
from trio_eventlog._reports import EventsReverted as EventsReverted
from trio_eventlog._reports import EventsSpilled as EventsSpilled
from trio_eventlog._reports import Finding as Finding
from trio_eventlog._reports import LogState as LogState
from trio_eventlog._reports import LogStatistics as LogStatistics
from trio_eventlog._reports import LossReason as LossReason
from trio_eventlog._reports import Report as Report
from trio_eventlog._reports import SpillDamage as SpillDamage
from trio_eventlog._reports import SpillFailure as SpillFailure
from trio_eventlog._reports import StoreDescription as StoreDescription
from trio_eventlog._reports import StoreVerification as StoreVerification
from trio_eventlog._subscription import EventStream as EventStream
from trio_eventlog._subscription import Subscription as Subscription
from trio_eventlog._subscription import iter_events as iter_events
from trio_eventlog._subscription import tail as tail
from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.abc import ChangeWatch as ChangeWatch
from trio_eventlog.abc import EventPage as EventPage
from trio_eventlog.abc import EventStore as EventStore
from trio_eventlog.abc import PagedStore as PagedStore
from trio_eventlog.abc import PrunableStore as PrunableStore
from trio_eventlog.abc import SyncableStore as SyncableStore
from trio_eventlog.abc import WatchableStore as WatchableStore

if _TYPE_CHECKING:
    from trio_eventlog._event_types import EventTypes as EventTypes
    from trio_eventlog._event_types import make_event_converter as make_event_converter
    from trio_eventlog._merge import LogEvent as LogEvent
    from trio_eventlog._merge import MergedEvents as MergedEvents
    from trio_eventlog._merge import merge_events as merge_events

__all__ = [
    "AgentEvent",
    "AppendFailure",
    "ChangeWatch",
    "CodecError",
    "EventEnvelope",
    "EventLog",
    "EventLogBroken",
    "EventLogError",
    "EventLoss",
    "EventPage",
    "EventQuery",
    "EventRejected",
    "EventStore",
    "EventStream",
    "EventTypes",
    "EventsLost",
    "EventsPruned",
    "EventsReverted",
    "EventsSpilled",
    "Finding",
    "LogBusy",
    "LogEvent",
    "LogNotFound",
    "LogState",
    "LogStatistics",
    "LossReason",
    "MergedEvents",
    "ModuleEvent",
    "PagedStore",
    "PersistedEvent",
    "PrunableStore",
    "Report",
    "RetryPolicy",
    "SequenceConflict",
    "SpillDamage",
    "SpillError",
    "SpillFailure",
    "StaleCursor",
    "StoreDescription",
    "StoreError",
    "StoreUnusable",
    "StoreVerification",
    "StoreWentBack",
    "Subscription",
    "SyncableStore",
    "UnifiedEvent",
    "WatchableStore",
    "from_json",
    "iter_events",
    "make_event_converter",
    "merge_events",
    "open_event_log",
    "tail",
    "to_json",
]

_adopt_public_names(globals())

_ON_FIRST_USE = {
    "EventTypes": "_event_types",
    "LogEvent": "_merge",
    "MergedEvents": "_merge",
    "make_event_converter": "_event_types",
    "merge_events": "_merge",
}
"""What not every program needs, and the modules that it is in."""


def __getattr__(name: str) -> object:
    if name not in _ON_FIRST_USE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module as _import_module  # noqa: PLC0415 - on first use

    module = _import_module(f"{__name__}.{_ON_FIRST_USE[name]}")
    names = {
        "__name__": __name__,
        **{n: getattr(module, n) for n, home in _ON_FIRST_USE.items() if home == _ON_FIRST_USE[name]},
    }
    _adopt_public_names(names)
    del names["__name__"]
    globals().update(names)
    return names[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
