"""What the tests of checkpoints share: keys, logs, and the tree as RFC 6962 defines it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import trio

from trio_eventlog import AgentEvent, EventEnvelope, ModuleEvent, PersistedEvent, open_event_log
from trio_eventlog.audit import CheckpointVerification, Signer, seal, verify_checkpoints
from trio_eventlog.stores import SqliteStore


@cache
def a_signer() -> Signer:
    """One for all tests that do not look at the keys."""
    return Signer.generate()


def numbered(number: int) -> EventEnvelope:
    """An event that can be told from others, of either kind."""
    payload = {"number": number, "text": f"payload {number}", "ratio": number / 8}
    event = (
        ModuleEvent("scheduler", "tick", payload)
        if number % 5 == 0
        else AgentEvent(f"agent-{number % 3}", f"type-{number % 2}", payload)
    )
    return EventEnvelope.of(event, event_id=f"event-{number}", timestamp_ms=1_700_000_000_000 + number)


def persisted(number: int, *, payload: object = None) -> PersistedEvent:
    return PersistedEvent(f"event-{number}", number, number, "a", AgentEvent("a", "t", payload))


def write(path: Path, first: int, last: int) -> None:
    """Store events in a log of a file."""

    async def main() -> None:
        async with SqliteStore.open(path, synchronous="off") as store, open_event_log(store) as log:
            for number in range(first, last + 1):
                log.ingest(numbered(number))

    trio.run(main)


def sealed(path: Path, checkpoints: Path, *, every_events: int = 10, signer: Signer | None = None) -> str:
    """Seal what is in a log; the last note, empty if there is none."""

    async def main() -> str:
        async with SqliteStore.open(path, synchronous="off") as store:
            recorder = await seal(store, signer or a_signer(), checkpoints, every_events=every_events)
            return recorder.last_note or ""

    return trio.run(main)


def verified(path: Path, checkpoints: Path, **options: object) -> CheckpointVerification:
    """Verify a log against its checkpoints."""
    signer = a_signer()

    async def main() -> CheckpointVerification:
        async with SqliteStore.open(path, read_only=True) as store:
            return await verify_checkpoints(
                store, checkpoints, signer.verifier, signer.commitment_key, **options
            )

    return trio.run(main)


# --- the tree, as the RFC defines it --------------------------------------------------------------


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaves that are hashed already."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return hashlib.sha256(b"\1" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_inclusion(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*naive_inclusion(index, leaves[:split]), naive_root(leaves[split:])]
    return [*naive_inclusion(index - split, leaves[split:]), naive_root(leaves[:split])]


def naive_consistency(size: int, leaves: list[bytes]) -> list[bytes]:
    """PROOF of section 2.1.2."""
    return _subproof(size, leaves, is_whole=True)


def _subproof(size: int, leaves: list[bytes], *, is_whole: bool) -> list[bytes]:
    if size == len(leaves):
        return [] if is_whole else [naive_root(leaves)]
    split = _split(len(leaves))
    if size <= split:
        return [*_subproof(size, leaves[:split], is_whole=is_whole), naive_root(leaves[split:])]
    rest = _subproof(size - split, leaves[split:], is_whole=False)
    return [*rest, naive_root(leaves[:split])]


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)
