"""The two kinds of ingress, each with a stand-in for the log behind it, for comparisons."""

from trio_eventlog import PersistedEvent
from trio_eventlog._log._settings import DEFAULT_RETRY, Settings


def settings(**changes):
    fields = {
        "filter": None,
        "transform": None,
        "on_failure": None,
        "batch_size": 2,
        "retry_buffer_cap": 100,
        "max_event_bytes": 1_000,
        "max_pending_bytes": 100_000,
        "retry": DEFAULT_RETRY,
        "flush_interval": 1.0,
        "append_timeout": 1.0,
        "grace_period": 1.0,
        "spill": None,
        "max_spill_bytes": 100_000,
    }
    return Settings(**(fields | changes))


class Book:
    """What becomes of events behind an ingress."""

    def __init__(self, make, last_seq=0, **changes):
        self.ingress = make(settings(**changes), last_seq)
        self.taken = []
        self.looks = []
        self.ingress.connect(self.take, lambda event, reason: self.taken.append((event, reason)))
        self.ingress.look = self.look

    def take(self):
        self.taken += self.ingress.take_all()

    def look(self):
        self.looks.append((self.ingress.count, self.ingress.size))
        self.ingress.check_count = self.ingress.count + 3
        self.ingress.check_size = self.ingress.size + 500

    def outcome(self, event):
        try:
            return self.ingress.ingest(event)
        except Exception as exc:  # noqa: BLE001 - whatever it is, both must raise it
            return type(exc), str(exc)

    def facts(self):
        ingress = self.ingress
        self.take()
        return (
            [
                told(event) if isinstance(event, PersistedEvent) else (told(event[0]), event[1])
                for event in self.taken
            ],
            self.looks,
            (ingress.last_seq, ingress.count, ingress.size, ingress.filtered),
        )


def told(event):
    """All that an event carries but for an id and a time that were made for it."""
    inner = event.event
    own = event.id[:2] == "e-"
    return (
        *(
            event.id if own else len(event.id),
            event.seq,
            event.timestamp_ms if own else None,
            event.member_id,
        ),
        *(type(inner), inner._text, inner._scopes, inner._size, inner.event_type, inner.payload),
    )


def core_ingress():
    from trio_eventlog._log._ingress import CoreIngress

    return CoreIngress
