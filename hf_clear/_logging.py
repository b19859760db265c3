"""Messages obey the verbosity of transformers, as those of its own modules do."""

from __future__ import annotations

import logging

from transformers.utils import logging as transformers_logging


class PackageLogger(logging.Logger):
    """The logger above all of hf_clear. Unless it is given a level, `transformers.logging.set_verbosity` sets it."""

    @property
    def level(self) -> int:
        return self.__dict__["level"] or transformers_logging.get_verbosity()

    @level.setter
    def level(self, level: int) -> None:
        self.__dict__["level"] = level


class _ToStderr(logging.StreamHandler):
    """Shows messages if nobody has set up logging: Python itself would keep those below a warning to itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)


def set_up() -> None:
    """Once, when hf_clear is imported."""
    logger = logging.getLogger(__package__)
    if type(logger) is logging.Logger:
        logger.__class__ = PackageLogger
    if not logger.handlers:
        logger.addHandler(_ToStderr())
