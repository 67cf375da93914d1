from __future__ import annotations

from typing import Literal

import pytest

from vidistill.core.errors import RecipeError
from vidistill.core.registry import Registry, check_options


def part(context: object, width: int = 16, mode: Literal["a", "b"] = "a", names: tuple[str, ...] = ()) -> None:
    """A part with options."""


def test_defaults_are_filled_in() -> None:
    assert check_options(part, {"width": 8}, "part", skip=1) == {"width": 8, "mode": "a", "names": ()}


def test_unknown_option_names_the_nearest_known_one() -> None:
    with pytest.raises(RecipeError, match="unknown key 'widht' .Did you mean 'width'"):
        check_options(part, {"widht": 8}, "part", skip=1)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(RecipeError, match="(?s)width.*mode"):
        check_options(part, {"width": "wide", "mode": "c"}, "part", skip=1)


def test_a_name_cannot_be_registered_twice() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("one")(object())
    with pytest.raises(ValueError, match="twice"):
        registry.register("one")(object())


def test_unknown_name_says_what_is_known() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("alpha")(object())
    with pytest.raises(RecipeError, match="unknown thing 'alpah'. Did you mean 'alpha'"):
        registry.get("alpah")
