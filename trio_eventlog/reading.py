"""Reading logs: following one from another process, going through one page by page, merging several."""

from trio_eventlog._model._epochs import Epoch
from trio_eventlog._reading._epochs import list_epochs
from trio_eventlog._reading._latest import latest_events
from trio_eventlog._reading._merge import LogEvent, MergedEvents, merge_events
from trio_eventlog._reading._stream import EventStream, iter_events
from trio_eventlog._reading._tail import tail
from trio_eventlog._util import adopt_public_names as _adopt_public_names

__all__ = [
    "Epoch",
    "EventStream",
    "LogEvent",
    "MergedEvents",
    "iter_events",
    "latest_events",
    "list_epochs",
    "merge_events",
    "tail",
]

_adopt_public_names(globals())
