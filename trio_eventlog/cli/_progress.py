"""How far a command is, on a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

_REFRESH: Final = 0.1


@asynccontextmanager
async def progress_bar(
    console: Console, total: float | None, state: Callable[[], tuple[float, str]]
) -> AsyncIterator[None]:
    """Show a bar for the length of the block, if ``console`` is a terminal. Owns a nursery there.

    Args:
      console: where to show it.
      total: what it goes to; None if nobody knows.
      state: how far it is now, and a few words about it.
    """
    if not console.is_terminal:
        await trio.lowlevel.checkpoint()
        yield
        return
    progress = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        # Its thread would write to the terminal at the same time as we do.
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )
    bar = progress.add_task("", total=total, words="")

    def refresh() -> None:
        completed, words = state()
        progress.update(bar, completed=completed, words=words)
        progress.refresh()

    async def keep_fresh() -> None:
        while True:
            refresh()
            await trio.sleep(_REFRESH)

    with progress:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_fresh)
            yield
            nursery.cancel_scope.cancel(reason="nothing is left to show")
        refresh()
