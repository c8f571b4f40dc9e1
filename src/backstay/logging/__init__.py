"""Logs: configured once, one stream in one shape, bound per request.

    configure_logging(settings.logging, production=True)
    logger = get_logger()
    with bound_context(request_id="8f2c"):
        logger.info("order accepted", order_id=7)

Every line has the keys `timestamp`, `level`, `logger` and `event`, then the context and the values of the
call; records of the standard library, so those of Uvicorn, SQLAlchemy, Alembic and HTTPX, come out the same
way. Secrets are redacted and control characters are written out, whoever logs. A logging call never raises.
"""

from backstay.logging._configure import configure_logging
from backstay.logging._context import bind_context, bound_context, clear_context
from backstay.logging._logger import Logger, get_logger
from backstay.logging._output import dropped_events
from backstay.logging._pipeline import DropEvent, EventDict, Processor, captured_logs

__all__ = [
    "DropEvent",
    "EventDict",
    "Logger",
    "Processor",
    "bind_context",
    "bound_context",
    "captured_logs",
    "clear_context",
    "configure_logging",
    "dropped_events",
    "get_logger",
]
