"""The one middleware: everything that surrounds a request, in pure ASGI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from backstay.app._exchange import Exchange
from backstay.app.installation import Installation
from backstay.app.runtime import Entered

__all__ = ["BackstayMiddleware"]


class BackstayMiddleware:
    """Surround each request with its id, its unit of work, its answer to errors and its access line.

    Args:
        app: The next application.
        installation: Settings and running state.
        between: Wraps the inner layer, such as Starlette's CORSMiddleware: what it adds reaches error
            answers too.
    """

    def __init__(
        self,
        app: ASGIApp,
        installation: Installation,
        between: Sequence[Callable[[ASGIApp], ASGIApp]] = (),
    ) -> None:
        self._app = app
        self._installation = installation
        inner: ASGIApp = self._serve
        for wrap in between:
            inner = wrap(inner)
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; a WebSocket only gets the runtime, the lifespan nothing."""
        if scope["type"] != "http":
            entered = Entered(self._installation.runtime)
            try:
                await self._app(scope, receive, send)
            finally:
                entered.leave()
            return
        await Exchange(self._installation, scope, receive, send).run(self._inner)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["backstay.exchange"].serve(self._app, scope, receive, send)
