"""Many losses of power: what is left of a log in each state, and how often something is missing."""

import hashlib
import random
from contextlib import suppress

import attrs
import trio

from trio_eventlog import EventQuery, EventsLost, ModuleEvent, PersistedEvent, StoreError, open_event_log
from trio_eventlog.abc import SyncableStore
from trio_eventlog.stores import SqliteStore
from trio_eventlog.testing import Crash, LossyDirectory, crash_state, record_files
from trio_eventlog.testing._power._journal import Acknowledged
from trio_eventlog.testing._power._states import KEPT


def open_sqlite(location, synchronous="full"):
    return SqliteStore.open(location / "log.db", synchronous=synchronous)


def drawn_crashes(journal, drawn, count):
    """So many crashes, and the states, no two of them the same; fewer if there are no more."""
    acknowledgements = sum(isinstance(operation, Acknowledged) for operation in journal.operations)
    seen = set()
    for _ in range(count * 20):
        if len(seen) == count:
            return
        crash = Crash(
            drawn.randint(0, acknowledgements),
            drawn.choice((0, 0, 1, -1, -2, drawn.randint(-9, 9), drawn.randint(-300, 300))),
            drawn.choice(KEPT),
            drawn.randrange(10**9),
        )
        state = crash_state(journal, crash)
        digest = hashlib.sha256(repr((state.promised, sorted(state.files.items()))).encode()).digest()
        if digest not in seen:
            seen.add(digest)
            yield crash, state


@attrs.define
class Tally:
    """What was found in the states of a run."""

    states: int = 0
    lacking: int = 0
    """States that lack something whose append had returned."""

    most: int = 0
    """The most appends that one lacks."""

    wrong: list = attrs.Factory(list)

    def __str__(self):
        return f"{self.states} states, {self.lacking} lack up to {self.most} appends, wrong: {self.wrong[:3]}"


async def tally_sqlite(directory, synchronous, seed, count):
    """Append to SQLite, lose power, and count the appends that had returned and are missing."""
    drawn = random.Random(seed)  # noqa: S311 - for states, no secret
    sizes = [drawn.choice((1, 1, 2, 5, 20, 120)) for _ in range(drawn.randint(3, 9))]
    before = directory / f"before-{seed}"
    before.mkdir()
    batches = []
    first = 1
    for size in sizes:
        batches.append([event_of(seq) for seq in range(first, first + size)])
        first += size
    with record_files(before) as journal:
        done = 0
        # Also what recovery and a clean end do.
        for part in (batches[: len(batches) // 2], batches[len(batches) // 2 :]):
            async with open_sqlite(before, synchronous) as store:
                for batch in part:
                    await store.append_batch(batch)
                    done += 1
                    journal.acknowledge(done)
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    tally = Tally()
    for number, (crash, state) in enumerate(drawn_crashes(journal, drawn, count)):
        after = directory / f"after-{seed}-{number}"
        after.mkdir()
        state.write(after)
        with record_files(after):
            async with open_sqlite(after, synchronous) as store:
                found = [event.seq for event in await store.query(EventQuery())]
                last_seq = await store.last_seq()
                await store.append_batch([event for batch in batches for event in batch])
                again = [event.seq for event in await store.query(EventQuery())]
        whole = len(found) in ends and found == list(range(1, len(found) + 1))
        if not whole or last_seq != len(found) or again != list(range(1, ends[-1] + 1)):
            tally.wrong.append((seed, crash, found[:5], last_seq))
        missing = state.promised - (ends.index(len(found)) if whole else 0)
        tally.states += 1
        tally.lacking += missing > 0
        tally.most = max(tally.most, missing)
        remove(after)
    return tally


def event_of(seq):
    return PersistedEvent(f"id-{seq}", seq, seq * 1_000, None, ModuleEvent("m", "t", {"n": seq}))


def remove(directory):
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


# --- a spill file in front of it ------------------------------------------------------------------


class Unreachable:
    """A store that can be away. It passes on what a spill file asks for."""

    def __init__(self, store):
        self._store = store
        self.is_away = True
        self.survives = store.survives
        self.log_id = store.log_id

    async def append_batch(self, events):
        if self.is_away:
            await trio.lowlevel.checkpoint()
            raise StoreError("away")
        return await self._store.append_batch(events)

    async def query(self, query):
        return await self._store.query(query)

    async def last_seq(self):
        return await self._store.last_seq()

    async def sync(self):
        assert isinstance(self._store, SyncableStore)
        await self._store.sync()


@attrs.define
class Promises:
    """Which events were promised, acknowledgement by acknowledgement."""

    lossy: LossyDirectory
    survives: str
    made: list[frozenset[int]] = attrs.Factory(lambda: [frozenset()])

    async def add(self, numbers):
        if not self.made[-1] >= set(numbers):
            self.made.append(self.made[-1] | set(numbers))
            await self.lossy.acknowledge(len(self.made) - 1)

    async def look(self, log, total):
        """Promise what is in the file now, and what is stored, if that is as good."""
        statistics = log.statistics()
        # What is in the file is older than what waits in memory, and newer than what is stored.
        stored = total - statistics.pending
        await self.add(range(stored, stored + statistics.spilled))
        if self.survives == "power":
            await self.add(range(stored))


async def record_spill(lossy, synchronous, seed):
    """Spill events while the store is away, deliver them, and spill again.

    Returns the promises, and the number of events.
    """
    drawn = random.Random(seed)  # noqa: S311 - for states, no secret
    total = 0
    promises = Promises(lossy, "power" if synchronous == "full" else "process")
    for _ in range(drawn.randint(1, 2)):
        async with open_sqlite(lossy.path, synchronous) as store:
            away = Unreachable(store)
            async with open_event_log(
                away,
                spill=lossy.path / "events.spill",
                retry_buffer_cap=4,
                batch_size=2,
                grace_period=0.05,
                on_failure=lambda report: None,
            ) as log:
                for _ in range(drawn.randint(1, 3)):
                    away.is_away = True
                    for _ in range(drawn.randint(5, 25)):
                        log.ingest(ModuleEvent("m", "t", {"n": total, "more": "x" * drawn.choice((0, 900))}))
                        total += 1
                        await until_spilled(log)
                        await promises.look(log, total)
                    # Some rounds end with events in the file and the store away.
                    if drawn.random() < 0.7:
                        away.is_away = False
                        await log.flush()
                        await promises.look(log, total)
            # What is left in memory was written to the file, and what is stored was synced.
            await promises.add(range(total))
    return promises.made, total


async def until_spilled(log):
    with trio.move_on_after(5):
        while log.statistics().pending - log.statistics().spilled > 3:  # noqa: ASYNC110 - no event for it
            await trio.sleep(0.001)


async def tally_spill(lossy, directory, synchronous, seed, count):
    """Lose power with a spill file in front of SQLite, and count the promised events that are missing."""
    promises, total = await record_spill(lossy, synchronous, seed)
    journal = await lossy.read_journal()
    tally = Tally()
    drawn = random.Random(seed)  # noqa: S311 - for states, no secret
    for number, (crash, state) in enumerate(drawn_crashes(journal, drawn, count)):
        after = directory / f"after-{seed}-{number}"
        after.mkdir()
        state.write(after)
        with record_files(after):
            async with open_sqlite(after, synchronous) as store:
                async with open_event_log(
                    store, spill=after / "events.spill", on_failure=lambda report: None
                ) as log:
                    # What was half written is lost; it was not promised.
                    with suppress(EventsLost):
                        await log.flush()
                events = await store.query(EventQuery())
        numbers = [event.event.payload["n"] for event in events]
        if numbers != sorted(set(numbers)) or not set(numbers) <= set(range(total)):
            tally.wrong.append((seed, crash, numbers))
        missing = len(promises[state.promised] - set(numbers))
        tally.states += 1
        tally.lacking += missing > 0
        tally.most = max(tally.most, missing)
        if missing:
            tally.wrong.append((seed, crash, f"{missing} of {len(promises[state.promised])} missing"))
        remove(after)
    return tally
