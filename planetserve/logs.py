"""Structured logs to standard error: one JSON object a line, or plain text for a terminal.

No event may carry a prompt, a path id or a pair of peers; events count and name causes.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from planetserve.errors import UsageError

if TYPE_CHECKING:
    import structlog
else:
    # structlog loads rich, when it finds it, to paint tracebacks that we do not show: 4 MB in each
    # of many small processes. It finds none while it loads here.
    _modules = cast(dict[str, ModuleType | None], sys.modules)
    _rich = _modules.pop("rich", None)
    _modules["rich"] = None
    try:
        import structlog
    finally:
        del _modules["rich"]
        if _rich is not None:
            _modules["rich"] = _rich


LEVELS = ("debug", "info", "warning", "error")


def get_logger() -> Any:
    """The process's logger: `log.info("event_name", field=value)`."""
    return structlog.get_logger()


def configure_logging(level: str = "info") -> None:
    """Set the process's logging up once, at start. Raises `UsageError` for an unknown level."""
    if level not in LEVELS:
        raise UsageError(f"--log-level takes one of {', '.join(LEVELS)}")
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *names: structlog.PrintLogger(sys.stderr),
    )


if not structlog.is_configured():
    # A command that answers one question, or a program that imports us, has its standard output
    # for itself.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *names: structlog.PrintLogger(sys.stderr),
    )
