"""Servers that lose power: ``nox -s power``. What is printed are the figures in the documentation."""

import pytest
import trio

from tests._helpers.power_servers import Nats, Postgres, tally_server
from trio_eventlog.testing._power._fuse import CannotMount, mounted


@pytest.fixture(scope="module", autouse=True)
def can_mount():
    try:
        with mounted():
            pass
    except CannotMount as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize(
    ("kind", "keeps"),
    [
        (Postgres("on", "on"), True),
        # What a server has as its default is not what the store takes.
        (Postgres("on", "off"), True),
        (Postgres("on", "off", is_in_url=True), False),
        (Postgres("off", "on"), False),
        (Nats("always"), True),
        (Nats("2m"), False),
    ],
    ids=str,
)
def test_a_server(kind, keeps):
    tally = trio.run(tally_server, kind)

    print(f"{kind}: {tally}")  # noqa: T201 - the figures
    assert (tally.lacking == 0) is keeps
    if keeps:
        assert not tally.wrong
