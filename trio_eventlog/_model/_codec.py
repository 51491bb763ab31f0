"""Names of ``_payload``, ``_sealed`` and ``_wire``, until every user imports them from there."""

from trio_eventlog._model._events import PersistedEvent as persisted_event  # noqa: N813 - its former name
from trio_eventlog._model._payload import MAX_DEPTH, encode_payload, scopes_of, too_large
from trio_eventlog._model._sealed import (
    check_envelope,
    encoded_payload,
    is_sealed,
    reseal,
    seal_event,
    seal_persisted,
    sealed_agent_event,
    sealed_module_event,
    size_of,
)
from trio_eventlog._model._wire import codec_error, from_json, to_json

__all__ = [
    "MAX_DEPTH",
    "check_envelope",
    "codec_error",
    "encode_payload",
    "encoded_payload",
    "from_json",
    "is_sealed",
    "persisted_event",
    "reseal",
    "scopes_of",
    "seal_event",
    "seal_persisted",
    "sealed_agent_event",
    "sealed_module_event",
    "size_of",
    "to_json",
    "too_large",
]
