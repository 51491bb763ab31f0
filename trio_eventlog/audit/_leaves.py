"""From events to the leaves of the tree. Pure.

All bytes are MessagePack in its shortest form: each string and number begins with its type and length, a
float has 64 bits, and the keys of a map are in the order of their UTF-8. So they depend on what an event
*is*, not on how a store has kept it: neither on the order of keys, nor on how a float is written.

::

    log key      = HMAC-SHA256(commitment key, "trio-eventlog/payloads/" + origin)
    payload key  = 32 bytes of SHAKE256(log key + seq // 64 as 8 bytes), from byte 32 * (seq % 64) on
    commitment   = SHA256(payload key + MessagePack of the payload)
    leaf         = SHA256(00 + MessagePack of [seq, id, timestamp_ms, kind, actor, type, member, commitment])

Since a payload has a key of its own, a proof can open one payload and says nothing about any other. No value
in MessagePack is the beginning of another one, so what is behind a secret key needs no HMAC: whoever has a
commitment cannot make one of anything longer.

An event whose payload was erased has the commitment in its tombstone. So its leaf is what it was.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from hashlib import sha256, shake_256
from typing import Any, Final

import msgspec

from trio_eventlog import AgentEvent, CodecError, PersistedEvent, UnifiedEvent, payload_json
from trio_eventlog.abc import ERASED
from trio_eventlog.audit._keys import CommitmentKey
from trio_eventlog.audit._notes import check_origin

_decode: Final = msgspec.json.Decoder().decode
_encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder(order="deterministic").encode

KEY_BYTES: Final = 32
_KEYS_AT_ONCE: Final = 64
"""Payload keys that are derived in one step, which is faster."""

_COMMITMENT: Final = re.compile("[0-9a-f]{64}")

_TOMBSTONE: Final = _encode({ERASED: None})[:-1]
"""What a tombstone begins with: a map of one item, and its key."""


def canonical_payload(event: UnifiedEvent) -> bytes:
    """The payload of an event as MessagePack.

    Raises:
      CodecError: the store has something else than JSON.
    """
    try:
        # Not `event.payload`, which keeps what it has decoded, and takes four times as long.
        return _encode(_decode(payload_json(event)))
    except (ValueError, OverflowError, RecursionError) as exc:
        raise _damaged(exc) from exc


def kept_commitment(payload: bytes) -> bytes | None:
    """The commitment in a payload that is a tombstone; None if it is none, or has no such commitment."""
    if not payload.startswith(_TOMBSTONE):
        return None
    tombstone = msgspec.msgpack.decode(payload)[ERASED]
    found = tombstone.get("commitment") if isinstance(tombstone, dict) else None
    return bytes.fromhex(found) if isinstance(found, str) and _COMMITMENT.fullmatch(found) else None


def commitment_of(event: UnifiedEvent, payload_key: bytes) -> bytes:
    """The commitment to a payload: says nothing about it without the key, and holds for no other one.

    Raises:
      CodecError: the store has something else than JSON.
    """
    payload = canonical_payload(event)
    return kept_commitment(payload) or sha256(payload_key + payload).digest()


def commitment_with(key: CommitmentKey, origin: str) -> Callable[[PersistedEvent], str]:
    """What makes the commitments to the payloads of a log, for those that are to be erased.

    ::

        commitment = commitment_with(CommitmentKey.load("audit.key.commitment"), store.log_id)
        await store.erase(EventQuery(identity="ann"), reason="request 17", commitment=commitment)

    Checkpoints that cover the erased events hold as before then, and so do those that are made later. See
    :meth:`trio_eventlog.abc.ErasableStore.erase`.

    Args:
      key: the key that the log is, or will be, sealed with.
      origin: the id of the log in its checkpoints, which is the ``log_id`` of its store if nothing else was
        said when they were made.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    if not isinstance(key, CommitmentKey):
        raise TypeError(f"key: expected a CommitmentKey, got {type(key).__name__}")
    hasher = LeafHasher(key, check_origin(origin))

    def commitment(event: PersistedEvent) -> str:
        return commitment_of(event.event, hasher.payload_key(event.seq)).hex()

    return commitment


def leaf_of(event: PersistedEvent, commitment: bytes) -> bytes:
    """The hash of an event as a leaf of the tree."""
    inner = event.event
    if isinstance(inner, AgentEvent):
        kind, actor = "agent", inner.agent_id
    else:
        kind, actor = "module", inner.module
    fields = (
        event.seq,
        event.id,
        event.timestamp_ms,
        kind,
        actor,
        inner.event_type,
        event.member_id,
        commitment,
    )
    return sha256(b"\x00" + _encode(fields)).digest()


class LeafHasher:
    """Makes the leaves of one log.

    Args:
      key: the commitment key.
      origin: the id of the log.

    Attributes:
      erased: how many of the events had a commitment in place of their payload.
    """

    def __init__(self, key: CommitmentKey, origin: str) -> None:
        self.erased = 0
        self._log_key = hmac.digest(key.secret, b"trio-eventlog/payloads/" + origin.encode(), "sha256")
        self._block = -1
        self._keys: list[bytes] = []

    def payload_key(self, seq: int) -> bytes:
        """The key of the payload of one event. Whoever has it can check, or guess, that payload alone."""
        return self._block_keys(seq // _KEYS_AT_ONCE)[seq % _KEYS_AT_ONCE]

    def _block_keys(self, block: int) -> list[bytes]:
        if block != self._block:
            keys = shake_256(self._log_key + block.to_bytes(8, "big")).digest(KEY_BYTES * _KEYS_AT_ONCE)
            self._keys = [keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)]
            self._block = block
        return self._keys

    def leaves(self, events: Iterable[PersistedEvent]) -> list[bytes]:
        """The leaves of events: for each what :func:`leaf_of` and :func:`commitment_of` make, faster.

        Raises:
          CodecError: the store has a payload that is no JSON.
        """
        # Called for every event of a log: a function call more or less is a tenth of its time.
        leaves: list[bytes] = []
        keys: list[bytes] = []
        first = end = 0
        for event in events:
            seq, inner = event.seq, event.event
            if not first <= seq < end:
                keys = self._block_keys(seq // _KEYS_AT_ONCE)
                first = seq - seq % _KEYS_AT_ONCE
                end = first + _KEYS_AT_ONCE
            try:
                payload = _encode(_decode(payload_json(inner)))
            except (ValueError, OverflowError, RecursionError) as exc:
                raise _damaged(exc) from exc
            # Written out: nearly every event is none, and a call would cost more than the rest of the line.
            kept = kept_commitment(payload) if payload.startswith(_TOMBSTONE) else None
            if kept is None:
                commitment = sha256(keys[seq - first] + payload).digest()
            else:
                commitment = kept
                self.erased += 1
            kind, actor = ("agent", inner.agent_id) if type(inner) is AgentEvent else ("module", inner.module)
            event_type, member_id = inner.event_type, event.member_id
            fields = (seq, event.id, event.timestamp_ms, kind, actor, event_type, member_id, commitment)
            leaves.append(sha256(b"\x00" + _encode(fields)).digest())
        return leaves


def _damaged(exc: Exception) -> CodecError:
    return CodecError("payload", f"not JSON, the store is damaged: {exc}")
