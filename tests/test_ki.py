"""Context managers that Ctrl-C cannot cut in half."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests._helpers.interrupts import interrupt_in_contextlib
from trio_eventlog._ki import ki_protected


@asynccontextmanager
async def resource(steps: list[str]) -> AsyncIterator[str]:
    """Takes something, and gives it back."""
    await trio.lowlevel.cancel_shielded_checkpoint()
    steps.append("taken")
    try:
        yield "it"
    finally:
        steps.append("given back")


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
def test_an_interrupt_in_contextlib_leaves_nothing_open(method: str) -> None:
    """It arrives at a checkpoint of the main task instead, and what was taken is given back."""
    steps: list[str] = []

    async def main() -> None:
        with interrupt_in_contextlib(method):
            async with ki_protected(resource)(steps):
                pass
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert steps == ["taken", "given back"]


def test_without_the_guard_it_stays_open() -> None:
    """The interrupt of these tests does arrive in the frames of contextlib."""
    steps: list[str] = []

    async def main() -> None:
        manager = resource(steps)
        with pytest.raises(KeyboardInterrupt), interrupt_in_contextlib("__aexit__"):
            async with manager:
                pass
        assert steps == ["taken"]
        await manager.__aexit__(None, None, None)

    trio.run(main)


def test_the_body_is_interrupted_at_once() -> None:
    """Only entering and leaving are guarded."""
    steps: list[str] = []

    async def main() -> None:
        async with ki_protected(resource)(steps) as value:
            assert value == "it"
            assert not trio.lowlevel.currently_ki_protected()

    trio.run(main)
    assert steps == ["taken", "given back"]


def test_a_guarded_function_looks_like_the_function() -> None:
    """For help and documentation."""
    guarded = ki_protected(resource)

    assert guarded.__name__ == "resource"
    assert guarded.__doc__ == resource.__doc__
    assert inspect.signature(guarded) == inspect.signature(resource)
