"""Every error a user can meet. One line each: what happened, where, what to do.

VidistillError
├── RecipeError       a recipe or an option is wrong
├── DataError         clips, manifests, labels, splits
│   └── DecodeError   one media file cannot be read
├── StoreError        a prepared store or a cache does not fit what is asked of it
├── CheckpointError   weights do not fit a network
├── TeacherError      a teacher is unusable (no better than chance, no input)
├── ModelError        a network cannot be built
└── MissingExtra      an optional dependency is not installed
"""

from __future__ import annotations


class VidistillError(Exception):
    """Base of all errors shown to a user as one line; `str(error)` is that line."""

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        line = " ".join(what.split())
        if where:
            line = f"{where}: {line}"
        if todo:
            line = f"{line.rstrip('.')}. {todo}"
        super().__init__(line)


class RecipeError(VidistillError):
    """A recipe, a command-line override or an option is wrong."""


class DataError(VidistillError):
    """Clips, manifests, labels or splits are not usable as they are."""


class DecodeError(DataError):
    """One media file cannot be read."""


class StoreError(VidistillError):
    """A prepared store or a teacher cache does not fit what is asked of it."""


class CheckpointError(VidistillError):
    """Weights do not fit the network they are loaded into."""


class TeacherError(VidistillError):
    """A teacher is not usable."""


class ModelError(VidistillError):
    """A network cannot be built or its weights cannot be had."""


class MissingExtra(VidistillError):
    """An optional dependency is needed and absent."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}", todo=f"Install it with: pip install 'vidistill[{extra}]'"
        )
