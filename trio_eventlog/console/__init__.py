"""The console: a log in a browser, live.

:func:`serve_console` shows a log of the program that it runs in, or stores that are open; :func:`create_app`
is for a program that has a web server already. Needs the extra ``console``. On the command line it is
``trio-eventlog serve``.

It reads and never writes. What it answers is described in the reference of its HTTP interface.
"""

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog._util import how_to_install as _how_to_install

try:
    from trio_eventlog.console._app import create_app
    from trio_eventlog.console._limits import ConsoleLimits
    from trio_eventlog.console._serve import serve_console
except ModuleNotFoundError as _exc:
    if (_exc.name or "").partition(".")[0] not in {"anycorn", "anyio", "starlette"}:
        raise
    raise ModuleNotFoundError(
        f"the console needs {_exc.name}; install it with: {_how_to_install('console')}", name=_exc.name
    ) from _exc

__all__ = ["ConsoleLimits", "create_app", "serve_console"]

_adopt_public_names(globals())
