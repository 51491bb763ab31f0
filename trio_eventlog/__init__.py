"""A structured-concurrency event log for Trio programs.

Floors; a lower one never imports an upper one, and a test walks the imports:

* 0, values (attrs, the codecs and the standard library): ``_util _model _lock_file``
* 1, the engine (pure: no Trio, no I/O, time and chance are arguments): ``_engine``
* 2, the contract: ``abc _declared``, and what every Trio part needs: ``_ki``
* 3, what reads (Trio): ``_handover _reading``, and the stores, which know neither each other nor the log:
  ``stores``, in which ``open_store`` alone knows them all
* 4, the log, the only place that awaits ``append_batch``: ``_log``
* beside them, on the public names alone: ``cli logging recorder testing __main__``
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from trio_eventlog._engine._policy import RetryPolicy as RetryPolicy
from trio_eventlog._log._event_log import EventLog as EventLog
from trio_eventlog._log._event_log import open_event_log as open_event_log
from trio_eventlog._model._codec import from_json as from_json
from trio_eventlog._model._codec import to_json as to_json
from trio_eventlog._model._descriptions import Finding as Finding
from trio_eventlog._model._descriptions import StoreDescription as StoreDescription
from trio_eventlog._model._descriptions import StoreVerification as StoreVerification
from trio_eventlog._model._errors import CodecError as CodecError
from trio_eventlog._model._errors import EventLogBroken as EventLogBroken
from trio_eventlog._model._errors import EventLogError as EventLogError
from trio_eventlog._model._errors import EventRejected as EventRejected
from trio_eventlog._model._errors import EventsLost as EventsLost
from trio_eventlog._model._errors import EventsPruned as EventsPruned
from trio_eventlog._model._errors import LogBusy as LogBusy
from trio_eventlog._model._errors import LogNotFound as LogNotFound
from trio_eventlog._model._errors import LossReason as LossReason
from trio_eventlog._model._errors import SequenceConflict as SequenceConflict
from trio_eventlog._model._errors import SpillError as SpillError
from trio_eventlog._model._errors import StaleCursor as StaleCursor
from trio_eventlog._model._errors import StoreError as StoreError
from trio_eventlog._model._errors import StoreUnusable as StoreUnusable
from trio_eventlog._model._errors import StoreWentBack as StoreWentBack
from trio_eventlog._model._events import AgentEvent as AgentEvent
from trio_eventlog._model._events import EventEnvelope as EventEnvelope
from trio_eventlog._model._events import ModuleEvent as ModuleEvent
from trio_eventlog._model._events import PersistedEvent as PersistedEvent
from trio_eventlog._model._events import UnifiedEvent as UnifiedEvent
from trio_eventlog._model._query import EventQuery as EventQuery
from trio_eventlog._model._reports import AppendFailureReport as AppendFailureReport
from trio_eventlog._model._reports import LossReport as LossReport
from trio_eventlog._model._reports import Report as Report
from trio_eventlog._model._reports import RevertReport as RevertReport
from trio_eventlog._model._reports import SpillDamageReport as SpillDamageReport
from trio_eventlog._model._reports import SpillFailureReport as SpillFailureReport
from trio_eventlog._model._reports import SpillReport as SpillReport
from trio_eventlog._model._statistics import LogState as LogState
from trio_eventlog._model._statistics import LogStatistics as LogStatistics
from trio_eventlog._reading._subscription import EventStream as EventStream
from trio_eventlog._reading._subscription import Subscription as Subscription
from trio_eventlog._reading._subscription import iter_events as iter_events
from trio_eventlog._reading._subscription import tail as tail
from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.abc import ChangeWatch as ChangeWatch
from trio_eventlog.abc import EventPage as EventPage
from trio_eventlog.abc import EventStore as EventStore
from trio_eventlog.abc import PagedStore as PagedStore
from trio_eventlog.abc import PrunableStore as PrunableStore
from trio_eventlog.abc import SyncableStore as SyncableStore
from trio_eventlog.abc import WatchableStore as WatchableStore

if _TYPE_CHECKING:
    from trio_eventlog._model._event_types import EventTypes as EventTypes
    from trio_eventlog._model._event_types import make_event_converter as make_event_converter
    from trio_eventlog._reading._merge import LogEvent as LogEvent
    from trio_eventlog._reading._merge import MergedEvents as MergedEvents
    from trio_eventlog._reading._merge import merge_events as merge_events

__all__ = [
    "AgentEvent",
    "AppendFailureReport",
    "ChangeWatch",
    "CodecError",
    "EventEnvelope",
    "EventLog",
    "EventLogBroken",
    "EventLogError",
    "EventPage",
    "EventQuery",
    "EventRejected",
    "EventStore",
    "EventStream",
    "EventTypes",
    "EventsLost",
    "EventsPruned",
    "Finding",
    "LogBusy",
    "LogEvent",
    "LogNotFound",
    "LogState",
    "LogStatistics",
    "LossReason",
    "LossReport",
    "MergedEvents",
    "ModuleEvent",
    "PagedStore",
    "PersistedEvent",
    "PrunableStore",
    "Report",
    "RetryPolicy",
    "RevertReport",
    "SequenceConflict",
    "SpillDamageReport",
    "SpillError",
    "SpillFailureReport",
    "SpillReport",
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
    "EventTypes": "_model._event_types",
    "LogEvent": "_reading._merge",
    "MergedEvents": "_reading._merge",
    "make_event_converter": "_model._event_types",
    "merge_events": "_reading._merge",
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
