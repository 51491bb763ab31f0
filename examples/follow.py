"""Keep a view of a log up to date, and go on where it ended when the program starts again.

Run it twice: the second run reads only what is new.
"""

import json
from pathlib import Path

import attrs
import trio

from trio_eventlog import Subscription, open_event_log
from trio_eventlog.stores import SqliteStore
from trio_eventlog.typed import EventTypes

VIEW = Path("balances.json")

accounts = EventTypes(module="accounts")


@accounts.event
@attrs.frozen
class Deposited:
    """Money came."""

    account: str
    cents: int


@accounts.event
@attrs.frozen
class Withdrawn:
    """Money went."""

    account: str
    cents: int


@attrs.define
class Balances:
    """What is known of the accounts, and up to which event."""

    cursor: int = 0
    cents: dict[str, int] = attrs.Factory(dict)
    events: int = 0

    async def follow(self, events: Subscription) -> None:
        """Take in what comes."""
        async for event in events:
            match accounts.unwrap(event):
                case Deposited(account, cents):
                    self.cents[account] = self.cents.get(account, 0) + cents
                case Withdrawn(account, cents):
                    self.cents[account] = self.cents.get(account, 0) - cents
            self.cursor = events.cursor
            self.events += 1


async def main(balances: Balances) -> None:
    """Move some money, and wait until the view shows it."""
    async with (
        SqliteStore.open("accounts.db") as store,
        open_event_log(store) as log,
        log.subscribe(after_seq=balances.cursor) as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(balances.follow, events)
        for number in range(100):
            log.ingest(accounts.wrap(Deposited(f"account-{number % 3}", 100)))
        log.ingest(accounts.wrap(Withdrawn("account-0", 250)))
        await log.flush()
        await events.wait_caught_up()
        nursery.cancel_scope.cancel()
    print(f"{balances.events} events read, up to seq {balances.cursor}: {balances.cents}")


if __name__ == "__main__":
    view = Balances(**json.loads(VIEW.read_text())) if VIEW.exists() else Balances()
    trio.run(main, view)
    VIEW.write_text(json.dumps({"cursor": view.cursor, "cents": view.cents}))
