"""From events to the leaves of the tree. Pure.

All bytes are MessagePack in its shortest form: each string and number begins with its type and length, a
float has 64 bits, and the keys of a map are in the order of their UTF-8. So they depend on what an event
*is*, not on how a store has kept it: neither on the order of keys, nor on how a float is written.

::

    log key      = HMAC-SHA256(commitment key, "trio-eventlog/payloads/" + origin)
    payload key  = 32 bytes of SHAKE256(log key + seq // 64 as 8 bytes), from byte 32 * (seq % 64) on
    commitment   = SHA256(payload key + MessagePack of the payload)
    leaf         = SHA256(00 + MessagePack of [seq, id, timestamp_ms, kind, actor, type, member, commitment])

Since a payload has a key of its own, a proof can open one payload and says nothing about any other.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from hashlib import sha256, shake_256
from typing import Any, Final

import msgspec

from trio_eventlog import AgentEvent, CodecError, PersistedEvent, UnifiedEvent, payload_json
from trio_eventlog.audit._keys import CommitmentKey

_decode: Final = msgspec.json.Decoder().decode
_encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder(order="deterministic").encode

KEY_BYTES: Final = 32
_KEYS_AT_ONCE: Final = 64
"""Payload keys that are derived in one step, which is faster."""


def canonical_payload(event: UnifiedEvent) -> bytes:
    """The payload of an event as MessagePack.

    Raises:
      CodecError: the store has something else than JSON.
    """
    try:
        # Not `event.payload`, which keeps what it has decoded, and takes four times as long.
        return _encode(_decode(payload_json(event)))
    except (ValueError, RecursionError) as exc:
        raise _damaged(exc) from exc


def commitment_of(event: UnifiedEvent, payload_key: bytes) -> bytes:
    """The commitment to a payload: says nothing about it without the key, and holds for no other one.

    Raises:
      CodecError: the store has something else than JSON.
    """
    return sha256(payload_key + canonical_payload(event)).digest()


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
    """

    def __init__(self, key: CommitmentKey, origin: str) -> None:
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
            except (ValueError, RecursionError) as exc:
                raise _damaged(exc) from exc
            commitment = sha256(keys[seq - first] + payload).digest()
            kind, actor = ("agent", inner.agent_id) if type(inner) is AgentEvent else ("module", inner.module)
            event_type, member_id = inner.event_type, event.member_id
            fields = (seq, event.id, event.timestamp_ms, kind, actor, event_type, member_id, commitment)
            leaves.append(sha256(b"\x00" + _encode(fields)).digest())
        return leaves


def _damaged(exc: Exception) -> CodecError:
    return CodecError("payload", f"not JSON, the store is damaged: {exc}")
