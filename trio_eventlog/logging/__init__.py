"""Records of the standard library's ``logging``, and of structlog, as events of a log.

A record becomes a :class:`ModuleEvent`. It may be made in any thread, in a signal handler, or in a
finalizer that runs in the middle of the log's own work. So it is turned into plain JSON where it is made,
waits in a queue that all of these may use, and is ingested between two steps of Trio.
"""

from importlib import import_module as _import_module

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.logging._handler import EventLogHandler, EventLogProcessor, capture_logging
from trio_eventlog.logging._records import event_from_record

__all__ = ["EventLogHandler", "EventLogProcessor", "capture_logging", "event_from_record"]

_adopt_public_names(globals())

# What makes the ids of events, which is imported on first use elsewhere. A signal handler that logs could
# meet it half imported.
_import_module("uuid_utils")
