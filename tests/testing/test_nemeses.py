"""Proxies that cut, stall and trickle; processes that are suspended or killed; clocks that jump."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_eventlog import EventQuery, ModuleEvent, open_event_log
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import (
    History,
    JumpingClock,
    TcpProxy,
    check_history,
    jumping_wall_clock,
    kill,
    paused,
    recording,
)

# --- the proxy ------------------------------------------------------------------------------------


class Server:
    """Answers each piece with itself, and keeps what it got."""

    def __init__(self):
        self.got = bytearray()
        self.port = 0

    async def serve(self, stream):
        async for data in stream:
            self.got += data
            await stream.send_all(data)


@asynccontextmanager
async def behind_proxy():
    server = Server()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])  # noqa: ASYNC113 - it listens already
        async with TcpProxy.open(server.port) as proxy:
            yield server, proxy
        nursery.cancel_scope.cancel(reason="done")


async def connect(proxy):
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def ended(stream):
    """Whether the connection has ended, in whatever way."""
    with trio.fail_after(5):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


async def gets(stream, expected):
    got = b""
    with trio.fail_after(5):
        while len(got) < len(expected):
            got += await stream.receive_some()
    return got == expected


async def test_it_carries_and_cuts():
    async with behind_proxy() as (server, proxy):
        async with await connect(proxy) as one, await connect(proxy) as two:
            for stream in (one, two):
                await stream.send_all(b"hello")
                assert await gets(stream, b"hello")
            proxy.cut()
            assert await ended(one)
            assert await ended(two)
        async with await connect(proxy) as three:
            await three.send_all(b"again")
            assert await gets(three, b"again")
        assert proxy.connections == 3
        assert repr(proxy) == f"<TcpProxy on port {proxy.port} for 127.0.0.1:{server.port}>"


async def test_it_refuses_and_accepts():
    async with behind_proxy() as (_, proxy):
        async with await connect(proxy) as before:
            proxy.refuse()
            assert await ended(before)
        async with await connect(proxy) as meanwhile:
            assert await ended(meanwhile)
        proxy.accept()
        async with await connect(proxy) as after:
            await after.send_all(b"hello")
            assert await gets(after, b"hello")


@pytest.mark.parametrize(
    "stalled", [{}, {"answers": False}, {"requests": False}], ids=["both", "requests", "answers"]
)
async def test_it_stalls_and_resumes(stalled):
    """With the answers alone, requests have their effect."""
    async with behind_proxy() as (server, proxy):
        async with await connect(proxy) as stream:
            await stream.send_all(b"a")
            assert await gets(stream, b"a")
            proxy.stall(**stalled)
            await stream.send_all(b"b")
            if stalled == {"requests": False}:
                with trio.fail_after(5):
                    while server.got != b"ab":  # noqa: ASYNC110 - a server tells nobody
                        await trio.sleep(0.001)
            with trio.move_on_after(0.05):
                await stream.receive_some()
                pytest.fail("got an answer")
            assert server.got == (b"ab" if stalled == {"requests": False} else b"a")
            proxy.resume()
            assert await gets(stream, b"b")


async def test_it_trickles():
    """A thousand bytes at ten thousand in a second, there and back."""
    async with behind_proxy() as (_, proxy):
        async with await connect(proxy) as stream:
            proxy.trickle(10_000)
            began = trio.current_time()
            await stream.send_all(bytes(1_000))
            assert await gets(stream, bytes(1_000))
            assert trio.current_time() - began >= 0.1
            proxy.trickle(1)
            await stream.send_all(bytes(1_000))
            with trio.move_on_after(0.05):
                await stream.receive_some()
                pytest.fail("got an answer")
            proxy.cut()
            assert await ended(stream)


async def test_it_resumes_in_the_middle_of_a_trickle():
    async with behind_proxy() as (_, proxy), await connect(proxy) as client:
        proxy.trickle(1e-6)
        await client.send_all(b"slow")
        await trio.testing.wait_all_tasks_blocked()
        proxy.resume()
        assert await gets(client, b"slow")


async def test_nobody_behind_it():
    async with TcpProxy.open(1) as proxy:
        async with await connect(proxy) as stream:
            assert await ended(stream)


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()], ids=repr)
async def test_what_the_block_raises_comes_out_as_it_is(error):
    with pytest.raises(type(error)) as raised:
        async with TcpProxy.open(1):
            raise error
    assert raised.value is error
    with trio.CancelScope() as scope:
        async with TcpProxy.open(1) as proxy:
            scope.cancel(reason="test")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(OSError, match=r"."):
        await trio.open_tcp_stream("127.0.0.1", proxy.port)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "1"}, TypeError, "target: expected the number of a port as an int, got str"),
        ({"target": 0}, ValueError, "target: expected 1 to 65535, got 0"),
        ({"target": 1, "port": 65_536}, ValueError, "port: expected 0 to 65535, got 65536"),
        ({"target": 1, "host": b"127.0.0.1"}, TypeError, "host: expected a string, got bytes"),
        ({"target": 1, "host": "x" * 300}, ValueError, "host: expected a name or an address, got 'xxx"),
    ],
)
async def test_arguments_of_the_proxy(options, error, message):
    with pytest.raises(error, match=message):
        async with TcpProxy.open(**options):
            pytest.fail("opened")  # pragma: no cover


def test_rates_of_the_proxy():
    proxy = TcpProxy(1, "127.0.0.1")
    with pytest.raises(TypeError, match="bytes_per_second: expected a number, got str"):
        proxy.trickle("1")
    for rate in (0, -1, math.nan):
        with pytest.raises(ValueError, match="bytes_per_second: expected more than 0"):
            proxy.trickle(rate)


# --- processes ------------------------------------------------------------------------------------

TICKING = "import time\nwhile True:\n    print('tick', flush=True)\n    time.sleep(0.001)\n"


@asynccontextmanager
async def ticking():
    process = await trio.lowlevel.open_process([sys.executable, "-c", TICKING], stdout=subprocess.PIPE)
    try:
        await process.stdout.receive_some()
        yield process
    finally:
        with trio.move_on_after(10, shield=True):
            await kill(process)
            await process.stdout.aclose()


async def drain(process):
    """Read until nothing comes for a while; whether the process still ticks."""
    with trio.move_on_after(2):
        while True:
            with trio.move_on_after(0.2) as scope:
                await process.stdout.receive_some(1_000_000)
            if scope.cancelled_caught:
                return False
    return True


async def test_a_process_is_suspended_and_goes_on():
    async with ticking() as process:
        async with paused(process):
            assert not await drain(process)
        assert await process.stdout.receive_some()
        async with paused(process.pid):
            assert not await drain(process)
        with trio.move_on_after(0.05):
            async with paused(process):
                await trio.sleep_forever()
        assert await process.stdout.receive_some()


async def test_a_suspended_process_is_killed():
    async with ticking() as process:
        async with paused(process):
            assert await kill(process) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            async with paused(process):
                pytest.fail("paused what has ended")  # pragma: no cover


async def test_processes_of_the_standard_library():
    process = subprocess.Popen([sys.executable, "-c", TICKING], stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - the point
    async with paused(process):
        pass
    assert await kill(process) == -signal.SIGKILL
    assert await kill(process) == -signal.SIGKILL


PARENT = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL)
print(process.pid, flush=True)
process.wait()
"""


async def test_a_process_that_is_no_child():
    """It is stopped all the same; nobody can wait for it."""
    parent = await trio.lowlevel.open_process(
        [sys.executable, "-c", PARENT, TICKING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    pid = int(await parent.stdout.receive_some())
    status = Path(f"/proc/{pid}/stat")
    async with paused(pid):
        with trio.fail_after(5):
            while status.read_text().rpartition(")")[2].split()[0] != "T":  # noqa: ASYNC110, ASYNC240 - no disk
                await trio.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    await kill(parent)
    await parent.stdout.aclose()


@pytest.mark.parametrize("process", ["1", None, True])
async def test_arguments_of_nemeses_for_processes(process):
    with pytest.raises(TypeError, match="process: expected a trio"):
        async with paused(process):
            pytest.fail("paused")  # pragma: no cover
    with pytest.raises(TypeError, match="process: expected a trio"):
        await kill(process)


async def test_groups_of_processes_are_left_alone():
    for pid in (0, -1, 2**31):
        with pytest.raises(ValueError, match="process: expected the id of a process"):
            async with paused(pid):
                pytest.fail("paused")  # pragma: no cover


# --- clocks ---------------------------------------------------------------------------------------


def test_trios_clock_jumps():
    """All deadlines that lie in the jump pass at once."""
    clock = JumpingClock()
    passed = []

    async def sleeper(seconds):
        await trio.sleep(seconds)
        passed.append(seconds)

    async def main():
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for seconds in (60, 3600, 10_000):
                nursery.start_soon(sleeper, seconds)
            await trio.testing.wait_all_tasks_blocked()
            assert passed == []
            clock.jump(4000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert sorted(passed) == [60, 3600]
            assert 4000 <= trio.current_time() - began < 4100
            nursery.cancel_scope.cancel(reason="done")

    began = time.monotonic()
    trio.run(main, clock=clock)
    assert time.monotonic() - began < 60
    assert repr(clock) == "<JumpingClock, 4000 s ahead>"


def test_the_wall_clock_jumps():
    real = time.time, time.time_ns
    with jumping_wall_clock() as clock:
        before = time.time()
        clock.jump(3600)
        assert 3600 <= time.time() - before < 3660
        clock.jump(-7200.5)
        assert -3601 <= time.time() - before < -3540
        assert abs(time.time_ns() / 1e9 - time.time()) < 60
        assert repr(clock) == "<WallClock, off by -3600.5 s>"
        clock.jump(-1e10)
        assert time.time() == 0
    assert (time.time, time.time_ns) == real


@pytest.mark.parametrize(
    ("seconds", "error", "message"),
    [
        ("1", TypeError, "seconds: expected a number, got str"),
        (True, TypeError, "seconds: expected a number, got bool"),
        (math.inf, ValueError, "seconds: expected a finite number"),
    ],
)
def test_jumps(seconds, error, message):
    with jumping_wall_clock() as clock, pytest.raises(error, match=message):
        clock.jump(seconds)
    with pytest.raises(error, match=message):
        JumpingClock().jump(seconds)


def test_trios_clock_never_goes_back():
    with pytest.raises(
        ValueError, match="seconds: expected 0 or more, since this clock never goes back, got -1"
    ):
        JumpingClock().jump(-1)


def test_a_log_keeps_its_order_whatever_the_clocks_do():
    """It numbers events; the wall clock only stamps them."""
    clock, history = JumpingClock(), History()

    async def main():
        store = recording(MemoryStore(), history, process="log")
        with jumping_wall_clock() as wall:
            async with open_event_log(store, append_timeout=5.0) as log:
                for number in range(30):
                    log.ingest(ModuleEvent("m", "t", number))
                    wall.jump((-1) ** number * 3600.0 * number)
                    clock.jump(number)
                    await trio.lowlevel.checkpoint()
                await log.flush()
                events = await log.query(EventQuery())
        assert [event.event.payload for event in events] == list(range(30))
        stamps = [event.timestamp_ms for event in events]
        assert stamps != sorted(stamps)

    trio.run(main, clock=clock)
    check_history(history).raise_if_failed()
