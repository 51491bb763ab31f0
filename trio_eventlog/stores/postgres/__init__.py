"""Tables in a PostgreSQL database."""

from trio_eventlog.stores.postgres._store import PostgresStore as PostgresStore

__all__ = ["PostgresStore"]
