"""A harness for stores, and tools for tests of programs that use a log.

It needs the extra ``testing``, which brings Hypothesis. Only :class:`StoreConformance` imports pytest,
when it skips a test.
"""

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.testing._accounts import FailureReports as FailureReports
from trio_eventlog.testing._accounts import check_accounts as check_accounts
from trio_eventlog.testing._accounts import run_in_virtual_time as run_in_virtual_time
from trio_eventlog.testing._check_harness import MutantResult as MutantResult
from trio_eventlog.testing._check_harness import MutationInterrupted as MutationInterrupted
from trio_eventlog.testing._check_harness import MutationReport as MutationReport
from trio_eventlog.testing._check_harness import check_harness as check_harness
from trio_eventlog.testing._check_store import check_store as check_store
from trio_eventlog.testing._conformance import StoreConformance as StoreConformance
from trio_eventlog.testing._example import ClauseViolation as ClauseViolation
from trio_eventlog.testing._explore import explore as explore
from trio_eventlog.testing._explore import replay as replay
from trio_eventlog.testing._explored_run import Deadlock as Deadlock
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
from trio_eventlog.testing._fixtures import FixtureReport as FixtureReport
from trio_eventlog.testing._fixtures import check_fixtures as check_fixtures
from trio_eventlog.testing._fixtures import write_fixtures as write_fixtures
from trio_eventlog.testing._growth import Growth as Growth
from trio_eventlog.testing._growth import GrowthReport as GrowthReport
from trio_eventlog.testing._growth import measure_growth as measure_growth
from trio_eventlog.testing._history._check import check_history as check_history
from trio_eventlog.testing._history._format import HistoryFormatError as HistoryFormatError
from trio_eventlog.testing._history._operations import AppendOperation as AppendOperation
from trio_eventlog.testing._history._operations import LastSeqOperation as LastSeqOperation
from trio_eventlog.testing._history._operations import Operation as Operation
from trio_eventlog.testing._history._operations import Outcome as Outcome
from trio_eventlog.testing._history._operations import QueryOperation as QueryOperation
from trio_eventlog.testing._history._recorder import History as History
from trio_eventlog.testing._history._recorder import RecordingStore as RecordingStore
from trio_eventlog.testing._history._recorder import recording as recording
from trio_eventlog.testing._history._report import ANOMALIES as ANOMALIES
from trio_eventlog.testing._history._report import Anomaly as Anomaly
from trio_eventlog.testing._history._report import HistoryError as HistoryError
from trio_eventlog.testing._history._report import HistoryReport as HistoryReport
from trio_eventlog.testing._machine import StoreStateMachine as StoreStateMachine
from trio_eventlog.testing._model import assert_same_events as assert_same_events
from trio_eventlog.testing._nemeses._clocks import JumpingClock as JumpingClock
from trio_eventlog.testing._nemeses._clocks import WallClock as WallClock
from trio_eventlog.testing._nemeses._clocks import jumping_wall_clock as jumping_wall_clock
from trio_eventlog.testing._nemeses._processes import kill as kill
from trio_eventlog.testing._nemeses._processes import paused as paused
from trio_eventlog.testing._nemeses._proxy import TcpProxy as TcpProxy
from trio_eventlog.testing._power._fuse import LossyDirectory as LossyDirectory
from trio_eventlog.testing._power._fuse import open_lossy_directory as open_lossy_directory
from trio_eventlog.testing._power._journal import FileJournal as FileJournal
from trio_eventlog.testing._power._losing import check_power_loss as check_power_loss
from trio_eventlog.testing._power._states import Crash as Crash
from trio_eventlog.testing._power._states import CrashState as CrashState
from trio_eventlog.testing._power._states import crash_state as crash_state
from trio_eventlog.testing._power._vfs import record_files as record_files
from trio_eventlog.testing._profile import ConformanceProfile as ConformanceProfile
from trio_eventlog.testing._profile import report_json as report_json
from trio_eventlog.testing._profile import report_junit as report_junit
from trio_eventlog.testing._report import CLAUSES as CLAUSES
from trio_eventlog.testing._report import CONTRACT_VERSION as CONTRACT_VERSION
from trio_eventlog.testing._report import CheckSettings as CheckSettings
from trio_eventlog.testing._report import ClauseFailure as ClauseFailure
from trio_eventlog.testing._report import ClausePassed as ClausePassed
from trio_eventlog.testing._report import ClauseSkipped as ClauseSkipped
from trio_eventlog.testing._report import ClauseUnfinished as ClauseUnfinished
from trio_eventlog.testing._report import ConformanceError as ConformanceError
from trio_eventlog.testing._report import ConformanceInterrupted as ConformanceInterrupted
from trio_eventlog.testing._report import ConformanceReport as ConformanceReport
from trio_eventlog.testing._schedules import ScheduleError as ScheduleError
from trio_eventlog.testing._strategies import batches as batches
from trio_eventlog.testing._strategies import envelopes as envelopes
from trio_eventlog.testing._strategies import events as events
from trio_eventlog.testing._strategies import payloads as payloads
from trio_eventlog.testing._strategies import persisted_events as persisted_events
from trio_eventlog.testing._strategies import queries as queries
from trio_eventlog.testing._strategies import texts as texts

__all__ = [
    "ANOMALIES",
    "CLAUSES",
    "CONTRACT_VERSION",
    "Anomaly",
    "AppendCall",
    "AppendOperation",
    "CheckSettings",
    "ClauseFailure",
    "ClausePassed",
    "ClauseSkipped",
    "ClauseUnfinished",
    "ClauseViolation",
    "ConformanceError",
    "ConformanceInterrupted",
    "ConformanceProfile",
    "ConformanceReport",
    "Crash",
    "CrashState",
    "Deadlock",
    "Fails",
    "FailureReports",
    "Fault",
    "FaultyStore",
    "FileJournal",
    "FixtureReport",
    "GoesBack",
    "Growth",
    "GrowthReport",
    "Hangs",
    "History",
    "HistoryError",
    "HistoryFormatError",
    "HistoryReport",
    "JumpingClock",
    "LastSeqOperation",
    "LossyDirectory",
    "MutantResult",
    "MutationInterrupted",
    "MutationReport",
    "Operation",
    "Outcome",
    "QueryOperation",
    "RecordingStore",
    "Rejects",
    "ScheduleError",
    "Slow",
    "StoreConformance",
    "StoreStateMachine",
    "TcpProxy",
    "WallClock",
    "Works",
    "assert_same_events",
    "batches",
    "check_accounts",
    "check_fixtures",
    "check_harness",
    "check_history",
    "check_power_loss",
    "check_store",
    "crash_state",
    "envelopes",
    "events",
    "explore",
    "fault_scripts",
    "faults",
    "jumping_wall_clock",
    "kill",
    "measure_growth",
    "open_lossy_directory",
    "paused",
    "payloads",
    "persisted_events",
    "queries",
    "record_files",
    "recording",
    "replay",
    "report_json",
    "report_junit",
    "run_in_virtual_time",
    "texts",
    "write_fixtures",
]

_adopt_public_names(globals())
