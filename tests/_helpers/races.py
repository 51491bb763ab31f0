"""Programs that fail in some orders of their tasks, and one that does in none."""

import random

import trio


async def lost_update():
    """Two tasks read a balance and write it back, one of them a step later."""
    balance = 0

    async def deposit(steps):
        nonlocal balance
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        before = balance
        await trio.lowlevel.checkpoint()
        balance = before + 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deposit, 1)
        nursery.start_soon(deposit, 2)
    assert balance == 2, "an update was lost"


async def check_then_act():
    """Among many tasks, two want the last seat, and one looks a checkpoint before it takes it."""
    seats = ["the last"]

    async def busy():
        for _ in range(8):
            await trio.lowlevel.checkpoint()

    async def slow():
        await trio.sleep(5)
        if seats:
            await trio.lowlevel.checkpoint()
            seats.pop()

    async def quick():
        await trio.sleep(5)
        await trio.lowlevel.checkpoint()
        if seats:
            seats.pop()

    async with trio.open_nursery() as nursery:
        for job in (busy, slow, busy, busy, quick, busy):
            nursery.start_soon(job)


async def two_inversions():
    """Fails only where two tasks overtake the first, in different rounds."""
    seen = []

    async def worker(name):
        for step in range(4):
            seen.append((name, step))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(worker, name)
    early = seen.index(("c", 1)) < seen.index(("a", 1))
    late = seen.index(("b", 3)) < seen.index(("a", 3))
    assert not (early and late), "overtaken twice"


async def deadlock():
    """Two tasks take two locks, each in its own order."""
    first, second = trio.Lock(), trio.Lock()

    async def take(one, other, steps):
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        async with one, other:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, first, second, 0)
        nursery.start_soon(take, second, first, 1)


async def locked():
    """As :func:`lost_update`, but nobody comes in between."""
    balance = 0
    lock = trio.Lock()

    async def deposit(steps):
        nonlocal balance
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        async with lock:
            before = balance
            await trio.sleep(1)
            balance = before + 1

    async with trio.open_nursery() as nursery:
        for steps in range(4):
            nursery.start_soon(deposit, steps)
    assert balance == 4


async def by_chance():
    """Takes another way each time."""
    async with trio.open_nursery() as nursery:
        for _ in range(random.SystemRandom().randrange(2, 30)):
            nursery.start_soon(trio.lowlevel.checkpoint)
