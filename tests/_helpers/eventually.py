"""What tests of stores on servers share: an operator, patience, and Ctrl-C at an awkward moment."""

import signal

import psycopg
import trio

from trio_eventlog import StoreError, StoreUnusable


async def sql(server, statement, *parameters):
    """What an operator of PostgreSQL does."""

    def run():
        with psycopg.connect(server.url(), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else None

    return await trio.to_thread.run_sync(run)


async def eventually(function, *args, seconds=60.0):
    """What ``function`` returns once it raises no errors any more that may pass."""
    with trio.fail_after(seconds):
        while True:
            try:
                return await function(*args)
            except StoreUnusable:
                raise
            except StoreError:
                await trio.sleep(0.02)


class InterruptedTurn:
    """A lock that is taken just as somebody presses Ctrl-C."""

    def __init__(self, lock):
        self._lock = lock

    async def __aenter__(self):
        await self._lock.acquire()
        signal.raise_signal(signal.SIGINT)

    async def __aexit__(self, *_):
        self._lock.release()
