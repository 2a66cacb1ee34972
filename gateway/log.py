"""Log lines: ``key=value`` pairs on standard error, values with blanks quoted."""

import json
import logging
import sys

LOGGER = logging.getLogger("kinwatch.gateway")


def configure(level: int = logging.INFO) -> None:
    """Send the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("time=%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(level)
    LOGGER.propagate = False


def line(event: str, **fields: object) -> str:
    """Return ``event=<event> key=value ...``; ``None`` is left out.

    Examples
    --------
    >>> line("round-opened", number=3, reason="all in")
    'event=round-opened number=3 reason="all in"'
    """
    pairs = [f"event={event}"]
    pairs += [f"{key}={_value(value)}" for key, value in fields.items() if value is not None]
    return " ".join(pairs)


def info(event: str, **fields: object) -> None:
    """Log something a person may want to know."""
    LOGGER.info(line(event, **fields))


def warn(event: str, **fields: object) -> None:
    """Log something that is not as it should be."""
    LOGGER.warning(line(event, **fields))


def _value(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not set(text) & set(' "='):
        return text
    return json.dumps(text)
