"""Named parts: one registry a kind, filled by a decorator; options are checked before a part is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, Field, ValidationError, create_model

from vidistill.core.errors import RecipeError

T = TypeVar("T")
Location = tuple[int | str, ...]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: " Did you mean 'x'?" or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known) or 'none'}."


def describe_validation(error: ValidationError, known: Callable[[Location], Iterable[str]]) -> str:
    """All problems of a pydantic error as one line, each with its path; unknown keys name the nearest known key.

    `known` gives the keys of the section in which an unknown key stands, by the section's path.
    """
    lines = []
    for item in error.errors():
        path = ".".join(map(str, item["loc"])) or "value"
        if item["type"] == "extra_forbidden":
            hint = nearest(str(item["loc"][-1]), known(item["loc"][:-1]))
            lines.append(f"unknown key {path!r} ({hint})")
        elif item["type"] == "missing":
            lines.append(f"{path!r} is missing")
        else:
            lines.append(f"{path!r}: {item['msg']} (got {item['input']!r})")
    return "; ".join(lines)


def check_options(part: Callable[..., Any], options: Mapping[str, Any], where: str, skip: int = 0) -> dict[str, Any]:
    """Options with defaults filled in and types checked against the signature of `part`.

    The first `skip` positional parameters are given by the caller and are not options.

    Raises:
        RecipeError: unknown keys (with the nearest known one), missing keys, wrong types; all at once.
    """
    parameters = list(inspect.signature(part, eval_str=True).parameters.values())[skip:]
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (annotation, Field(default=default))
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    model = create_model("Options", __config__=config, **fields)
    try:
        checked = model(**options)
    except ValidationError as error:
        raise RecipeError(describe_validation(error, lambda _: fields), where=where) from None
    return {name: getattr(checked, name) for name in fields}


class Registry(Generic[T]):
    """Parts of one kind by name. Names are lower-case; registering a name twice is an error."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a class or function under `name`."""

        def decorate(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._parts[name] = part
            return part

        return decorate

    def get(self, name: str, where: str | None = None) -> T:
        """The part filed under `name`.

        Raises:
            RecipeError: no such part; the nearest known name is given.
        """
        if name not in self._parts:
            raise RecipeError(f"unknown {self.kind} {name!r}", where=where, todo=nearest(name, self._parts))
        return self._parts[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts
