"""The core in C, for longer, on a million payloads, and while everything happens at once: ``nox -s core``."""

import enum
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from tests._helpers.books import Book, core_ingress
from trio_eventlog import AgentEvent, CodecError
from trio_eventlog._model._payload import encode_in_python
from trio_eventlog._speedups import core

PAYLOADS = int(os.environ.get("TRIO_EVENTLOG_PAYLOADS", "1_000_000"))


def test_it_was_compiled():
    assert core is not None
    # Where the library of AddressSanitizer is loaded, it has something to look at.
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        assert b"__asan_init" in Path(core.__file__).read_bytes()


# --- payloads -------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Items(list):
    pass


class Fields(dict):
    pass


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    FIRST = "first"


FLAWS = (
    *((), (1, 2), {1}, frozenset(), b"b", bytearray(b"b"), 1j, uuid.UUID(int=1), object(), range(2)),
    *(float("nan"), float("inf"), -float("inf"), 2**64, -(2**63) - 1, 10**400),
    *("\ud800", "ab\udc00", Text("t"), Whole(1), Real(1.5), Items([1]), Fields(a=1), Level.LOW, Name.FIRST),
)
CHARACTERS = ("a", "é", "\0", "\x1f", '"', "\\", "/", "\x7f", "\u2028", "\ufeff", "\U0001f600", "ключ", " ")


class Payloads:
    """Random payloads, one in three with a flaw somewhere."""

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311 - for tests

    def text(self):
        length = self.random.choice((0, 1, 3, 9, 70))
        return "".join(self.random.choices(CHARACTERS, k=length))

    def leaf(self):
        kind = self.random.randrange(9)
        if kind < 3:
            return self.text()
        if kind < 5:
            return self.random.choice(
                (0, 1, -1, 2**31, 2**63, 2**64 - 1, -(2**63), self.random.getrandbits(60))
            )
        if kind < 7:
            bits = self.random.getrandbits(64)
            number = float(bits) * 10.0 ** self.random.randrange(-320, 280)
            return number if number != float("inf") else 0.0
        return self.random.choice((None, True, False))

    def value(self, depth):
        kind = self.random.randrange(10)
        if depth == 0 or kind < 5:
            return self.leaf()
        if kind < 8:
            return {self.text(): self.value(depth - 1) for _ in range(self.random.randrange(5))}
        return [self.value(depth - 1) for _ in range(self.random.randrange(5))]

    def payload(self):
        value = self.value(3)
        if self.random.randrange(3) == 0:
            flaw = self.random.choice(FLAWS)
            value = self.random.choice(([value, flaw], {"a": value, "b": flaw}, flaw, {"x": [flaw]}))
            if self.random.randrange(4) == 0:
                value = {self.random.choice((1, None, "\ud800", Text("k"), 1.5, True)): value}
        return value


def test_a_million_payloads():
    payloads = Payloads(1)
    refused = 0
    for _ in range(PAYLOADS):
        payload = payloads.payload()
        try:
            expected = encode_in_python(payload)
        except CodecError:
            expected = None
            refused += 1
        assert core.encode(payload, 2**40) == expected, ascii(payload)

    assert 0.2 < refused / PAYLOADS < 0.5


# --- at once --------------------------------------------------------------------------------------


def test_a_payload_that_other_threads_change():
    """What is encoded was there at one moment; whatever it was, it is JSON or is refused."""
    payload = {"a": [1, 2, 3], "b": {"c": "x" * 100}, "d": 1.5}
    done = threading.Event()

    def change():
        number = 0
        while not done.is_set():
            number += 1
            payload[f"k{number % 50}"] = [number] * (number % 7)
            payload.pop(f"k{(number + 25) % 50}", None)
            payload["a"].append(number)
            del payload["a"][:5]
            payload["b"] = {"c": "é" * (number % 90)}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100_000):
            encoded = core.encode(payload, 2**40)
            assert set("abd") <= json.loads(encoded).keys()
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


INTERRUPTED = """
import signal, sys, time
from tests._helpers.books import Book, core_ingress
from trio_eventlog import AgentEvent

book = Book(core_ingress(), batch_size=10**6, retry_buffer_cap=10**7, max_pending_bytes=10**12)
seqs, interrupts, is_armed = [], 0, False

def interrupt(*_):
    # Elsewhere in this program, it would only break the program.
    global interrupts
    if is_armed:
        interrupts += 1
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
print("ready", flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    try:
        is_armed = True
        for number in range(100):
            seqs.append(book.ingress.ingest(AgentEvent("a", "t", {"run_id": "r", "n": number})))
        is_armed = False
    except KeyboardInterrupt:
        is_armed = False
events = book.ingress.take_all()
# A seq can be lost on the way back to the caller, as from any call; its event cannot.
assert [event.seq for event in events] == list(range(1, book.ingress.last_seq + 1))
assert set(seqs) <= set(range(1, book.ingress.last_seq + 1))
assert all(event.event.payload["run_id"] == "r" for event in events[::100])
assert interrupts > 10, interrupts
print("done", len(events), interrupts, flush=True)
"""


def test_ctrl_c_at_any_moment():
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "3"], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        chance = random.Random(2)  # noqa: S311 - for a test
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            process.send_signal(signal.SIGINT)
            # The clock is what is tested.
            time.sleep(chance.random() * 0.01)
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert said.startswith("done ")


def test_memory_does_not_grow():
    resource = pytest.importorskip("resource")
    payloads = Payloads(3)
    some = [payloads.payload() for _ in range(2_000)]

    def use():
        book = Book(core_ingress(), max_event_bytes=10_000, max_pending_bytes=10**9)
        for payload in some:
            book.outcome(AgentEvent("a", "t", payload))
        book.taken.clear()

    for _ in range(5):
        use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        use()
    # In KiB: what leaks is far more, 120,000 times.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
