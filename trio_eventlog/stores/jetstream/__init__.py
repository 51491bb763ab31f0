"""A stream of NATS JetStream."""

from trio_eventlog.stores.jetstream._store import JetStreamStore as JetStreamStore

__all__ = ["JetStreamStore"]
