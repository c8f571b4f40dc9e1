"""The one call that a process makes."""

from collections.abc import Sequence
from typing import IO

import structlog

from backstay.logging._logger import BoundLogger
from backstay.logging._pipeline import Origin, Processor, pipeline
from backstay.logging._records import take_over_records
from backstay.settings import LoggingSettings


def configure_logging(
    settings: LoggingSettings,
    *,
    production: bool = False,
    stream: IO[str] | IO[bytes] | None = None,
    processors: Sequence[Processor] = (),
) -> None:
    """Send every line of this process to one stream in one shape; call it again to change that.

    Handlers of Uvicorn, SQLAlchemy, Alembic and HTTPX are removed, as is what `logging.basicConfig` left;
    `uvicorn.access` is silenced, for the access line is ours. Python's warnings become lines, too.

    Args:
        settings: Level, format and further keys to redact.
        production: Makes the format `auto` mean JSON on a terminal, too.
        stream: Text or binary; standard output when omitted. Writes may block when nobody reads from it.
        processors: Your own steps, in structlog's form: `(logger, level, event) -> event`. They run after the
            context is merged and before redaction, so that nothing they add leaks; raise `DropEvent` to keep
            an event back. One that fails is named in the line, which is written without it.
    """
    pipeline.assemble(settings, production=production, stream=stream, processors=processors)
    take_over_records()
    structlog.configure(
        processors=pipeline.processors,
        wrapper_class=BoundLogger,
        context_class=dict,
        logger_factory=Origin,
        cache_logger_on_first_use=True,
    )
