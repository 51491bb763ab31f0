"""Histories are judged by the contract: nothing is found in a legal one, and each anomaly by its name."""

import pickle

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests._helpers.anomalies import INJECTIONS
from tests._helpers.histories import CLOCK, legal_histories, operations_of
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.testing import (
    ANOMALIES,
    AppendOperation,
    History,
    HistoryError,
    LastSeqOperation,
    Outcome,
    QueryOperation,
    check_history,
)
from trio_eventlog.testing._history._check import judge
from trio_eventlog.testing._history._min_tree import MinTree

# Histories are large to draw, and small in what is said of them.
SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def found_in(operations, **options):
    return set(judge(operations, **options).counts)


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_TO_DRAW)
@given(legal_histories())
def test_nothing_is_found_in_a_legal_history(steps):
    report = judge(operations_of(steps))

    assert report.anomalies == (), str(report)
    assert report.operations == len(steps)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_TO_DRAW)
@given(legal_histories(), st.data())
def test_nothing_is_found_where_the_end_or_some_queries_were_not_recorded(steps, data):
    """A history is one of some instances, up to some moment."""
    operations = operations_of(steps)
    end = data.draw(st.sampled_from([0.0, *sorted(operation.ended for operation in operations)]))
    kept = [
        operation
        if operation.ended <= end
        else attrs.evolve(operation, ended=float("inf"), outcome=Outcome.UNKNOWN, error=None)
        for operation in operations
        if operation.began < end and (isinstance(operation, AppendOperation) or data.draw(st.booleans()))
    ]

    assert found_in(kept) == set()


@pytest.mark.parametrize("name", ANOMALIES)
def test_an_anomaly_in_a_legal_history_is_found_by_its_name(name):
    tried = 0

    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_DRAW)
    @given(legal_histories(max_steps=25), st.randoms(use_true_random=False))
    def broken_histories(steps, random):
        nonlocal tried
        broken = list(INJECTIONS[name](steps))
        assume(broken)
        for one in random.sample(broken, min(5, len(broken))):
            tried += 1
            report = judge(operations_of(one))
            assert set(report.counts) == {name}, str(report)
            assert all(anomaly.name == name for anomaly in report.anomalies)

    broken_histories()
    assert tried >= 15


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW_TO_DRAW)
@given(steps=legal_histories())
def test_a_history_is_read_from_its_file_as_it_was_written(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("histories") / "history.jsonl"
    history = History()
    history._operations += operations_of(steps)
    history._clocks = {CLOCK: 0.0}
    history.write(path)

    assert History.read(path).operations == history.operations
    assert check_history(path) == check_history(history)


@given(st.lists(st.integers(0, 5), max_size=20), st.data())
def test_the_first_number_below_a_bound(numbers, data):
    tree = MinTree(numbers)
    left = list(numbers)
    for _ in range(5):
        start, stop = data.draw(st.integers(0, len(left))), data.draw(st.integers(0, len(left)))
        bound = data.draw(st.integers(0, 6))
        expected = next((i for i in range(start, stop) if left[i] < bound), None)
        assert tree.first_below(start, stop, bound) == expected
        if left:
            forgotten = data.draw(st.integers(0, len(left) - 1))
            tree.forget(forgotten)
            left[forgotten] = float("inf")


# --- a table of what may be, and what may not -----------------------------------------------------


def event(seq, event_id=None, kind="t"):
    return PersistedEvent(event_id or f"id-{seq}", seq, seq, None, ModuleEvent("m", kind))


def who(instance, read_only):
    return {"process": instance, "instance": instance, "read_only": read_only, "clock": CLOCK}


def append(began, ended, *seqs, outcome=Outcome.OK, by="w", **more):
    batch = tuple(seq if isinstance(seq, PersistedEvent) else event(seq) for seq in seqs)
    return AppendOperation(**who(by, False), began=began, ended=ended, outcome=outcome, batch=batch, **more)


def query(began, ended, *found, by="w", read_only=False, **asked):
    pairs = tuple(seq if isinstance(seq, tuple) else (seq, f"id-{seq}") for seq in found)
    return QueryOperation(
        **who(by, read_only),
        began=began,
        ended=ended,
        outcome=Outcome.OK,
        query=EventQuery(**asked),
        found=pairs,
    )


def read(began, ended, *found, by="r", **asked):
    return query(began, ended, *found, by=by, read_only=True, **asked)


def last_seq(began, ended, seq, *, by="w", read_only=False):
    return LastSeqOperation(**who(by, read_only), began=began, ended=ended, outcome=Outcome.OK, last_seq=seq)


UNKNOWN, FAILED = Outcome.UNKNOWN, Outcome.FAILED
NEVER = float("inf")

LEGAL = {
    "nothing at all": [],
    "an append that is under way is seen or not": [
        append(1, 9, 1),
        query(2, 3, 1),
        append(10, 19, 2),
        query(11, 12, 1),
    ],
    "a query that runs while an append returns": [append(1, 3, 1), query(2, 4)],
    "ends that meet are concurrent": [append(1, 3, 1), query(3, 4)],
    "a reader sees an append before the appender does": [
        append(1, 9, 1),
        read(2, 3, 1),
        query(4, 5),
        last_seq(6, 7, 0),
    ],
    "an append of unknown outcome is never seen": [
        append(1, 3, 1, outcome=UNKNOWN),
        query(4, 5),
        query(6, 7),
    ],
    "it lands late": [append(1, 3, 1, outcome=UNKNOWN), query(4, 5), query(6, 7, 1)],
    "it lands with a last_seq that runs": [
        append(1, 3, 1, outcome=UNKNOWN),
        last_seq(4, 9, 1),
        query(5, 6),
        query(7, 8, 1),
    ],
    "it lands while the next append runs": [
        append(1, 3, 1, outcome=UNKNOWN),
        append(4, 9, 2),
        query(5, 6),
        query(7, 8, 1),
        query(10, 11, 1, 2),
    ],
    "it never came back, and lands late": [append(1, NEVER, 1, outcome=UNKNOWN), query(4, 5), query(6, 7, 1)],
    "it is tried again together with more": [
        append(1, 3, 1, 2, outcome=UNKNOWN),
        query(4, 5, 1, 2),
        append(6, 9, 1, 2, 3),
        query(7, 8, 1, 2),
        query(10, 11, 1, 2, 3),
    ],
    "its seqs are used again": [
        append(1, 3, 1, outcome=UNKNOWN),
        last_seq(4, 5, 0, by="w2"),
        append(6, 7, event(1, "other"), by="w2"),
        query(8, 9, (1, "other"), by="w2"),
    ],
    "a failed append of events that are held": [
        append(1, 2, 1),
        append(3, 4, 1, event(1, "other"), outcome=FAILED),
        query(5, 6, 1),
    ],
    "a failed append that is tried again": [append(1, 2, 1, outcome=FAILED), append(3, 4, 1), query(5, 6, 1)],
    "a repeat with another seq": [
        append(1, 2, 1),
        append(3, 4, event(2, "id-1"), 3, returned=frozenset({2})),
        query(5, 6, 1, 3),
        last_seq(7, 8, 3),
    ],
    "seqs in any order": [append(1, 2, 5), append(3, 4, 2), query(5, 6, 2, 5), last_seq(7, 8, 5)],
    "a reader lags": [append(1, 2, 1), append(3, 4, 2), read(5, 6), read(7, 8, 1), read(9, 10, 1, 2)],
    "another reader lags more": [append(1, 2, 1), read(3, 4, 1), read(5, 6, by="r2")],
    "queries of a reader overlap": [append(1, 2, 1), read(3, 6, 1), read(5, 7)],
    "a reader's last_seq lags": [append(1, 2, 1), last_seq(3, 4, 0, by="r", read_only=True)],
    "an appender whose turn is over lags": [
        append(1, 2, 1, by="w1"),
        append(3, 4, 2, by="w2"),
        query(5, 6, 1, by="w1"),
        last_seq(7, 8, 1, by="w1"),
    ],
    "filters and limits": [
        append(1, 2, event(1, kind="a"), event(2, kind="b"), event(3, kind="a")),
        query(3, 4, 1, 3, event_types=("a",)),
        query(5, 6, 2, after_seq=1, limit=1),
        query(7, 8, 1, limit=1),
        query(9, 10, limit=0),
        query(11, 12, 3, since_ms=3),
        query(13, 14, until_ms=1),
    ],
    "a store that went back says so": [
        append(1, 2, 1, 2, 3),
        query(3, 4, 1, 2, 3),
        append(5, 6, 4, outcome=FAILED, went_back_to=1),
        last_seq(7, 8, 1),
        query(9, 10, 1),
        append(11, 12, event(2, "other")),
        query(13, 14, 1, (2, "other")),
    ],
}
"""Histories that a store may have."""


@pytest.mark.parametrize("operations", LEGAL.values(), ids=list(LEGAL))
def test_what_the_contract_allows(operations):
    report = judge(operations)

    assert report.anomalies == (), str(report)


ILLEGAL = {
    "an acknowledged event is never found": (
        "lost write",
        [append(1, 2, 1), append(3, 4, 2), query(5, 6, 2)],
    ),
    "the end of a batch is never found": (
        "lost write",
        [append(1, 4, 1, 2, 3), query(2, 3, 1, 2), query(5, 6, 1, 2)],
    ),
    "what was read of an unknown append is gone": (
        "lost write",
        [append(1, 2, 1, outcome=UNKNOWN), query(3, 4, 1), last_seq(5, 6, 1), query(7, 8)],
    ),
    "an event is lost on the way to the next appender": (
        "lost write",
        [append(1, 2, 1, by="w1"), query(3, 4, by="w2")],
    ),
    "readers alone show that it is lost": ("lost write", [append(1, 2, 1), append(3, 4, 2), read(5, 6, 2)]),
    "it is missing in a page": (
        "lost write",
        [
            append(1, 2, 1, 2, 3),
            append(3, 4, 4),
            query(5, 6, 2, 3, after_seq=1, limit=2),
            query(7, 8, 1, 3, 4),
        ],
    ),
    "it is missing under a filter": ("lost write", [append(1, 2, 1, 2), query(3, 4, event_types=("t",))]),
    "an event of a failed append": ("aborted read", [append(1, 2, 1, outcome=FAILED), query(3, 4, 1)]),
    "last_seq of a failed append": ("aborted read", [append(1, 2, 1, outcome=FAILED), last_seq(3, 4, 1)]),
    "half of a batch while it is appended": (
        "intermediate read",
        [append(1, 9, 1, 2), query(3, 4, 1), query(10, 11, 1, 2)],
    ),
    "half of a batch of unknown outcome": (
        "intermediate read",
        [append(1, 3, 1, 2, outcome=UNKNOWN), query(4, 5, 1)],
    ),
    "half of a batch in a reader": (
        "intermediate read",
        [append(1, 2, 1, 2), read(3, 4, 2), read(5, 6, 1, 2)],
    ),
    "what was added to a retry without the rest": (
        "intermediate read",
        [append(1, 3, 1, 2, outcome=UNKNOWN), append(4, 9, 1, 2, 3), query(5, 6, 3), query(10, 11, 1, 2, 3)],
    ),
    "an event twice in a result": ("duplicate", [append(1, 2, 1), query(3, 4, 1, 1)]),
    "an event on two seqs": (
        "duplicate",
        [
            append(1, 2, 1, outcome=UNKNOWN),
            append(3, 4, event(2, "id-1"), outcome=UNKNOWN),
            query(5, 6, 1, (2, "id-1")),
        ],
    ),
    "a repeat on another seq that nobody mentions": (
        "duplicate",
        [append(1, 2, 1), append(3, 4, event(2, "id-1"))],
    ),
    "a seq that is taken is taken again": (
        "one seq with two events",
        [append(1, 2, 1), append(3, 4, event(1, "other"))],
    ),
    "a seq changes its event": (
        "one seq with two events",
        [
            append(1, 2, 1, outcome=UNKNOWN),
            append(3, 4, event(1, "other"), outcome=UNKNOWN),
            query(5, 6, 1),
            query(7, 8, (1, "other")),
        ],
    ),
    "a reader goes back": (
        "non-monotonic reader",
        [append(1, 2, 1), append(3, 4, 2), read(5, 6, 1, 2), read(7, 8, 1), read(9, 10, 1, 2)],
    ),
    "a reader goes back behind what it had passed": (
        "non-monotonic reader",
        [
            append(1, 2, 1),
            append(3, 4, 2),
            read(5, 6, 2, after_seq=1),
            read(7, 8, limit=1),
            query(9, 10, 1, 2),
        ],
    ),
    "a query does not find what had returned": (
        "real-time violation",
        [append(1, 2, 1), query(3, 4), query(5, 6, 1)],
    ),
    "a query finds neither what had returned nor what it had found before that": (
        "real-time violation",
        [append(1, 2, 1), append(3, 19, 2), query(4, 5, 1, 2), query(6, 7), query(20, 21, 1, 2)],
    ),
    "a reader sees the later of two appends": (
        "real-time violation",
        [append(1, 2, 1), append(3, 4, 2), read(5, 6, 2), query(7, 8, 1, 2)],
    ),
    "an appender does not find what it had found": (
        "non-monotonic reader",
        [append(1, 9, 1), query(2, 3, 1), query(4, 5), query(10, 11, 1)],
    ),
    "an append lands after a call that comes after it": (
        "real-time violation",
        [append(1, 2, 1, outcome=UNKNOWN), last_seq(3, 4, 0), query(5, 6), query(7, 8, 1)],
    ),
    "an append lands after its process was replaced": (
        "real-time violation",
        [append(1, NEVER, 1, outcome=UNKNOWN, by="w1"), query(3, 4, by="w2"), query(5, 6, 1, by="w2")],
    ),
    "an event is found before it was appended": ("real-time violation", [query(1, 2, 1), append(3, 4, 1)]),
    "last_seq before it was appended": ("real-time violation", [last_seq(1, 2, 1), append(3, 4, 1)]),
    "last_seq lags": ("stale last_seq", [append(1, 2, 1), last_seq(3, 4, 0)]),
    "last_seq is that of the latest event": (
        "stale last_seq",
        [append(1, 2, 5), append(3, 4, 2), last_seq(5, 6, 2)],
    ),
    "last_seq goes back": (
        "stale last_seq",
        [append(1, NEVER, 1, outcome=UNKNOWN), last_seq(3, 4, 1), last_seq(5, 6, 0)],
    ),
    "a reader's last_seq is behind what it has read": (
        "stale last_seq",
        [append(1, 2, 1), read(3, 4, 1), last_seq(5, 6, 0, by="r", read_only=True)],
    ),
    "an event of nobody": ("phantom", [append(1, 2, 1), query(3, 4, 1, (2, "nobody's"))]),
    "an id that was changed": ("phantom", [append(1, 2, 1), query(3, 4, (1, "ID-1"))]),
    "last_seq of nobody": ("phantom", [append(1, 2, 1), last_seq(3, 4, 2)]),
}
"""Histories that no store may have, with what is wrong with each."""


@pytest.mark.parametrize(("name", "operations"), ILLEGAL.values(), ids=list(ILLEGAL))
def test_what_the_contract_forbids(name, operations):
    report = judge(operations)

    assert set(report.counts) == {name}, str(report)
    for anomaly in report.anomalies:
        assert anomaly.operations
        assert anomaly.seqs
        assert str(anomaly).startswith(f"{name}: ")
    with pytest.raises(HistoryError, match=name):
        report.raise_if_failed()


def test_every_anomaly_is_in_the_table():
    assert {name for name, _ in ILLEGAL.values()} == set(ANOMALIES)


# --- reports --------------------------------------------------------------------------------------


def test_a_finding_names_five_seqs_and_the_times():
    report = judge([append(11, 12, *range(1, 3001)), query(13, 14.5)])

    (anomaly,) = report.anomalies
    assert anomaly.seqs == (1, 2, 3, 4, 5)
    assert str(report) == (
        "2 operations on 3000 events: lost write (1)\n"
        "lost write: seqs 1 to 3000, acknowledged at 1.000000 s, not found by a query of w that began at"
        " 2.000000 s, nor by any after it; expected to be found\n"
        "  w: append_batch of seqs 1 to 3000, 0.000000 s to 1.000000 s\n"
        "  w: query that found nothing, 2.000000 s to 3.500000 s"
    )


def test_a_thousand_findings_are_counted_and_a_hundred_kept():
    reads = [query(10 + 2 * n, 11 + 2 * n) for n in range(1000)]
    report = judge([append(1, 2, 1), *reads, query(9_000, 9_001, 1)])

    assert report.counts == {"real-time violation": 1000}
    assert len(report.anomalies) == 100


def test_too_many_filters_are_counted():
    reads = [query(10 + 2 * n, 11 + 2 * n, since_ms=5 + n) for n in range(120)]
    report = judge([append(1, 2, 1), *reads])

    assert report.unjudged == 20
    assert "20 queries with rare filters were judged in part" in str(report)


def test_what_was_there_before_is_not_judged():
    operations = [query(1, 2, (1, "old"), (2, "older"), 3), append(0, 1, 3), last_seq(3, 4, 3)]

    assert found_in(operations) == {"phantom"}
    assert found_in(operations, after_seq=2) == set()
    assert found_in([last_seq(1, 2, 7)], after_seq=7) == set()


@pytest.mark.parametrize(
    ("skew", "found"), [(0.0, {"real-time violation"}), (0.5, {"real-time violation"}), (1.0, set())]
)
def test_clocks_that_differ(skew, found):
    """What is no further apart than that counts as concurrent."""
    assert found_in([append(1, 2, 1), query(3, 3.5), query(5, 6, 1)], skew=skew) == found


def test_time_grows_no_faster_than_the_history_does():
    """Counted in comparisons of times, of which a search or a walk over the log for each query needs more."""

    class Time(float):
        compared = 0

        def __lt__(self, other):
            Time.compared += 1
            return float.__lt__(self, other)

        def __gt__(self, other):
            Time.compared += 1
            return float.__gt__(self, other)

    def comparisons(count):
        operations = []
        for n in range(count):
            at = 10 * n
            operations += [
                append(Time(at), Time(at + 2), 2 * n + 1, 2 * n + 2),
                query(Time(at + 3), Time(at + 4), 2 * n + 1, 2 * n + 2, after_seq=2 * n),
                # One that never catches up, and one whose results have holes.
                read(Time(at + 3), Time(at + 4), after_seq=n, limit=0 if n % 2 else 5),
                query(Time(at + 5), Time(at + 6), 1, limit=1),
            ]
        Time.compared = 0
        assert judge(operations).anomalies == ()
        return Time.compared

    small, large = comparisons(200), comparisons(1600)

    # Eight times as much: times 8 and something for the logarithm, not times 64.
    assert large < 8 * small * 2


def test_reduced_payloads():
    from trio_eventlog.testing._history._operations import reduced

    full = PersistedEvent(
        "i", 1, 2, "a", AgentEvent("a", "t", {"run_id": "r", "step_id": 7, "text": "secret"})
    )
    kept = reduced(full)

    assert kept.event.payload == {"run_id": "r"}
    assert attrs.evolve(kept, event=full.event) == full
    assert reduced(event(1)) == event(1)
    assert pickle.loads(pickle.dumps(kept)) == kept  # noqa: S301 - our own
