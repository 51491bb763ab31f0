"""`explore` finds the order of tasks in which a program fails, and `replay` repeats it."""

import contextlib
import random
import threading
from functools import partial

import pytest
import trio
import trio._core._run as trio_run
import trio._threads as trio_threads

from tests._helpers import races
from trio_eventlog.stores import SqliteStore
from trio_eventlog.testing import Deadlock, ScheduleError, explore, replay
from trio_eventlog.testing._schedules import Departure, Order, parsed, written


def explored(main, *args, **options):
    """What an exploration raises, and the schedule of its note."""
    with pytest.raises(BaseException) as caught:
        explore(main, *args, **options)
    note = caught.value.__notes__[-1]
    return caught.value, note.rpartition("schedule=")[2][1:-2]


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("main", "error", "schedule"),
    [
        (races.lost_update, AssertionError, "3:1/2"),
        (races.check_then_act, ExceptionGroup, "31:1/2"),
        (races.deadlock, Deadlock, "2:1/2"),
    ],
)
def test_a_race_is_found_with_every_seed_and_shown_by_one_departure(main, error, schedule, seed):
    found, shown = explored(main, seed=seed)

    assert isinstance(found, error)
    assert shown == schedule
    with pytest.raises(error) as again:
        replay(main, schedule=shown)
    assert str(again.value) == str(found)


@pytest.mark.parametrize("seed", range(3))
def test_what_takes_two_departures_is_shown_by_two(seed):
    found, shown = explored(races.two_inversions, seed=seed)

    assert isinstance(found, AssertionError)
    assert shown == "3:2/3 7:1/3"
    with pytest.raises(AssertionError, match="overtaken twice"):
        replay(races.two_inversions, schedule=shown)


def test_a_correct_program_passes():
    explore(races.locked)
    replay(races.locked, schedule="")


def test_the_note_says_who_overtook_whom():
    found, _ = explored(races.check_then_act, seed=4)

    (note,) = found.__notes__
    assert note.startswith("Found by trio_eventlog.testing.explore after ")
    assert "with seed=4." in note
    assert ".quick came before tests._helpers.races.check_then_act.<locals>.slow" in note
    assert note.endswith("To run it again: replay(main, schedule='31:1/2')")


def test_the_same_seed_tries_the_same_orders():
    notes = {explored(races.two_inversions, seed=5)[0].__notes__[0] for _ in range(2)}
    assert len(notes) == 1


def test_a_program_that_fails_anyway():
    """It needs no departure, and arguments are passed on."""

    async def main(what):
        await trio.sleep(3600)
        raise ValueError(what)

    found, shown = explored(main, "always")
    assert (str(found), shown) == ("always", "")
    assert "after 1 orders" in found.__notes__[0]


def test_another_failure_is_not_taken_for_the_same():
    """A smaller example must fail in the same place."""

    async def main():
        came = []

        async def worker(name):
            for _ in range(3):
                came.append(name)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(worker, name)
        if "".join(came) == "bababa":
            raise KeyError
        if came[4:] == ["b", "a"]:
            raise IndexError

    kinds = {type(explored(main, seed=seed)[0]) for seed in range(3)}
    assert kinds <= {IndexError, KeyError}
    for seed in range(3):
        found, shown = explored(main, seed=seed)
        with pytest.raises(type(found)):
            replay(main, schedule=shown)


# --- deadlocks ------------------------------------------------------------------------------------


async def shielded():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@pytest.mark.parametrize("main", [trio.sleep_forever, shielded])
def test_a_program_that_waits_for_ever_is_ended(main):
    found, _ = explored(main)

    assert isinstance(found, Deadlock)
    assert str(found).startswith("every task waits, and nothing can wake one: ")
    assert main.__name__ in str(found)


async def wakes_itself():
    """With a deadline, by waiting for others to wait, from a thread, and by I/O."""
    with trio.move_on_after(3600):
        await trio.sleep_forever()
    await trio.testing.wait_all_tasks_blocked(0.001)
    assert await trio.to_thread.run_sync(threading.get_ident) == threading.get_ident()
    await trio.run_process(["true"])


def test_what_only_waits_long_is_no_deadlock():
    replay(wakes_itself, schedule="")


# --- threads --------------------------------------------------------------------------------------


async def through_sqlite(path):
    path.unlink(missing_ok=True)
    async with SqliteStore.open(path, synchronous="off") as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.last_seq)
        nursery.start_soon(store.append_batch, [])
        await trio.sleep(1000)
        assert await store.last_seq() == 0


def test_a_store_with_threads(tmp_path):
    """What they do is done at once, and takes no virtual time."""
    explore(through_sqlite, tmp_path / "events.db", max_examples=5)


def test_a_thread_that_raises():
    async def main():
        with pytest.raises(ZeroDivisionError):
            await trio.to_thread.run_sync(lambda: 1 // 0)

    replay(main, schedule="")


# --- what cannot be explored ----------------------------------------------------------------------


def test_a_program_that_is_not_deterministic():
    with pytest.raises(ScheduleError, match=r"not deterministic: .* it went two different ways"):
        explore(races.by_chance)


def test_a_failure_that_does_not_repeat():
    runs = []

    async def main():
        runs.append(len(runs))
        await trio.lowlevel.checkpoint()
        if runs[-1] == 1:
            raise ValueError("the second time")

    with pytest.raises(ScheduleError, match=r"it came to its end and then raised ValueError\('the second"):
        explore(main)


def test_a_schedule_of_another_program():
    with pytest.raises(ScheduleError, match="another program: it went '' instead of '40:1/2'"):
        replay(races.lost_update, schedule="40:1/2")
    with pytest.raises(ScheduleError, match="it went '3:1/2' instead of '3:1/3'"):
        replay(races.lost_update, schedule="3:1/3")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_examples": 1}, ValueError, "max_examples: expected 2 or more, got 1"),
        ({"max_examples": 2.0}, TypeError, "max_examples: expected an int, got float"),
        ({"seed": -1}, ValueError, "seed: expected 0 or more, got -1"),
        ({"seed": "x"}, TypeError, "seed: expected an int, got str"),
    ],
)
def test_arguments_out_of_range(options, error, message):
    with pytest.raises(error, match=message):
        explore(races.locked, **options)


@pytest.mark.parametrize("schedule", ["x", "3", "3:1", "3:0/2", "3:2/2", "-3:1/2", "3:1/2,4:1/2", "٣:1/2"])
def test_what_is_no_schedule(schedule):
    with pytest.raises(ValueError, match="schedule: expected departures such as '12:1/3', got"):
        replay(races.locked, schedule=schedule)


@pytest.mark.parametrize("main", [None, 5])
def test_the_program_is_a_function(main):
    for run in (explore, partial(replay, schedule="")):
        with pytest.raises(TypeError, match="main: expected an async function, got"):
            run(main)


def test_a_schedule_is_a_string():
    with pytest.raises(TypeError, match="schedule: expected a str, got bytes"):
        replay(races.locked, schedule=b"")


def test_within_trio_it_says_what_to_do():
    async def main():
        with pytest.raises(RuntimeError, match="call it from synchronous code, or in a thread"):
            explore(races.locked)
        with pytest.raises(RuntimeError, match="call it from synchronous code, or in a thread"):
            replay(races.locked, schedule="")

    trio.run(main)


# --- Trio's insides -------------------------------------------------------------------------------


def insides():
    return trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_threads.start_thread_soon


@pytest.mark.parametrize("main", [races.locked, races.lost_update, races.by_chance])
def test_what_was_replaced_is_put_back(main):
    before = insides()
    with contextlib.suppress(AssertionError, ScheduleError):
        explore(main, max_examples=10)
    assert insides() == before


def test_ctrl_c_ends_it():
    before = insides()

    async def main():
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore(main)
    assert insides() == before


@pytest.mark.parametrize("name", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
def test_a_trio_that_is_not_known(monkeypatch, name):
    monkeypatch.delattr(trio_run, name)
    with pytest.raises(ScheduleError, match=r"the order of tasks cannot be chosen: Trio 0\.\d+"):
        explore(races.locked)


def test_a_trio_that_asks_nobody(monkeypatch):
    """It has what is replaced, and does not use it."""
    monkeypatch.setattr(Order, "shuffle", lambda self, tasks: None)
    with pytest.raises(ScheduleError, match="the order of tasks cannot be chosen"):
        explore(races.locked)


def test_another_run_meanwhile_is_not_affected():
    """It has its own order and its own threads; but it cannot be explored."""
    seen = []

    async def other():
        ours = threading.get_ident()
        seen.append(await trio.to_thread.run_sync(threading.get_ident) != ours)
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(trio.lowlevel.checkpoint)

    def beside():
        trio.run(other)
        with pytest.raises(RuntimeError, match="one at a time"):
            replay(races.locked, schedule="")
        seen.append("refused")

    async def main():
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join(30)
        await trio.lowlevel.checkpoint()

    replay(main, schedule="")
    assert seen == [True, "refused"]


# --- schedules ------------------------------------------------------------------------------------


def test_schedules_as_text():
    departures = [Departure(0, 1, 2), Departure(12, 3, 40)]
    assert written(departures) == "0:1/2 12:3/40"
    assert parsed("0:1/2 12:3/40") == departures
    assert parsed("") == []


class Task:
    def __init__(self, name):
        self.name = name


def taken(order, names):
    """In which order Trio would run tasks with these names, from the oldest on."""
    batch = [Task(name) for name in names]
    order.shuffle(batch)
    return "".join(task.name for task in reversed(batch))


@pytest.mark.parametrize(
    ("plan", "rounds"),
    [
        ({}, ["abc", "d", "ef"]),
        ({0: 1}, ["bac", "d", "ef"]),
        ({0: 2}, ["cab", "d", "ef"]),
        # Counted round, so that any number is a departure.
        ({0: 3}, ["bac", "d", "ef"]),
        ({0: 2, 1: 1}, ["cba", "d", "ef"]),
        ({1: 1}, ["acb", "d", "ef"]),
        ({2: 7}, ["abc", "d", "fe"]),
        ({3: 1}, ["abc", "d", "ef"]),
    ],
)
def test_the_order_of_a_plan(plan, rounds):
    order = Order(plan)
    assert [taken(order, names) for names in ("abc", "d", "ef")] == rounds
    assert (order.choices_made, order.widest, order.rounds) == (3, 3, 3)
    assert len(order.departures) == len([at for at in plan if at < 3])


def test_chance_for_others():
    order = Order({})
    assert isinstance(order, random.Random)
    names = []
    thread = threading.Thread(target=lambda: names.append(taken(order, "abcdefghij")))
    thread.start()
    thread.join()
    assert sorted(names[0]) == list("abcdefghij")
    assert order.rounds == 0
