"""A harness for stores, and tools for tests of programs that use a log.

It needs the extra ``testing``, which brings Hypothesis. Only :class:`StoreConformance` imports pytest,
when it skips a test.
"""

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.testing._accounts import FailureReports as FailureReports
from trio_eventlog.testing._accounts import check_accounts as check_accounts
from trio_eventlog.testing._accounts import run_in_virtual_time as run_in_virtual_time
from trio_eventlog.testing._check_store import check_store as check_store
from trio_eventlog.testing._conformance import StoreConformance as StoreConformance
from trio_eventlog.testing._example import ClauseViolation as ClauseViolation
from trio_eventlog.testing._faults import Fails as Fails
from trio_eventlog.testing._faults import Fault as Fault
from trio_eventlog.testing._faults import GoesBack as GoesBack
from trio_eventlog.testing._faults import Hangs as Hangs
from trio_eventlog.testing._faults import Rejects as Rejects
from trio_eventlog.testing._faults import Slow as Slow
from trio_eventlog.testing._faults import Works as Works
from trio_eventlog.testing._faults import fault_scripts as fault_scripts
from trio_eventlog.testing._faults import faults as faults
from trio_eventlog.testing._faulty_store import AppendCall as AppendCall
from trio_eventlog.testing._faulty_store import FaultyStore as FaultyStore
from trio_eventlog.testing._machine import StoreStateMachine as StoreStateMachine
from trio_eventlog.testing._model import assert_same_events as assert_same_events
from trio_eventlog.testing._power._fuse import LossyDirectory as LossyDirectory
from trio_eventlog.testing._power._fuse import open_lossy_directory as open_lossy_directory
from trio_eventlog.testing._power._journal import FileJournal as FileJournal
from trio_eventlog.testing._power._losing import check_power_loss as check_power_loss
from trio_eventlog.testing._power._states import Crash as Crash
from trio_eventlog.testing._power._states import CrashState as CrashState
from trio_eventlog.testing._power._states import crash_state as crash_state
from trio_eventlog.testing._power._vfs import record_files as record_files
from trio_eventlog.testing._report import CLAUSES as CLAUSES
from trio_eventlog.testing._report import ClauseFailure as ClauseFailure
from trio_eventlog.testing._report import ClausePassed as ClausePassed
from trio_eventlog.testing._report import ClauseSkipped as ClauseSkipped
from trio_eventlog.testing._report import ConformanceError as ConformanceError
from trio_eventlog.testing._report import ConformanceReport as ConformanceReport
from trio_eventlog.testing._strategies import batches as batches
from trio_eventlog.testing._strategies import envelopes as envelopes
from trio_eventlog.testing._strategies import events as events
from trio_eventlog.testing._strategies import payloads as payloads
from trio_eventlog.testing._strategies import persisted_events as persisted_events
from trio_eventlog.testing._strategies import queries as queries
from trio_eventlog.testing._strategies import texts as texts

__all__ = [
    "CLAUSES",
    "AppendCall",
    "ClauseFailure",
    "ClausePassed",
    "ClauseSkipped",
    "ClauseViolation",
    "ConformanceError",
    "ConformanceReport",
    "Crash",
    "CrashState",
    "Fails",
    "FailureReports",
    "Fault",
    "FaultyStore",
    "FileJournal",
    "GoesBack",
    "Hangs",
    "LossyDirectory",
    "Rejects",
    "Slow",
    "StoreConformance",
    "StoreStateMachine",
    "Works",
    "assert_same_events",
    "batches",
    "check_accounts",
    "check_power_loss",
    "check_store",
    "crash_state",
    "envelopes",
    "events",
    "fault_scripts",
    "faults",
    "open_lossy_directory",
    "payloads",
    "persisted_events",
    "queries",
    "record_files",
    "run_in_virtual_time",
    "texts",
]

_adopt_public_names(globals())
