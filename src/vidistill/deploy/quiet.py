"""Silence around third-party tools that report their own internals to the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """No warnings, log lines or standard output from the block, and no trace of its logging set-up afterwards.

    For the ONNX exporter and the quantiser alone: a failure of theirs is an exception, and what they write is checked
    number by number, so nothing of use is lost.
    """
    root = logging.getLogger()
    disabled, level = root.manager.disable, root.level
    # onnxruntime.quantization calls logging.basicConfig on import, which does nothing where a handler exists.
    guard = logging.NullHandler()
    root.addHandler(guard)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(guard)
        root.setLevel(level)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its class."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
