from __future__ import annotations

import components
import numpy as np
import pytest


def test_ours_gives_the_published_numbers(component: components.Component) -> None:
    check = components.find_check(component.name)
    assert check is not None
    check(component)
    assert not component.left(), f"{component.name}: no test knows these outputs: {', '.join(component.left())}"


def test_a_component_that_no_check_knows_is_listed_not_tested(tmp_path) -> None:
    (tmp_path / "adaptive").mkdir()
    for name in ("loss_kd_more", "loss_unheard_of"):
        (tmp_path / "adaptive" / f"{name}.json").write_text('{"tolerance": "exact"}')
    assert components.sort_components(tmp_path) == (["adaptive/loss_kd_more"], ["adaptive/loss_unheard_of"])


def test_the_longest_pattern_wins(monkeypatch) -> None:
    monkeypatch.setattr(components, "CHECKS", {"a/loss*": print, "a/loss_kd*": repr})
    assert components.find_check("a/loss_kd_2") is repr
    assert components.find_check("a/loss_dkd") is print
    assert components.find_check("b/loss_kd") is None


def test_an_output_that_nothing_was_compared_with_is_left() -> None:
    component = components.Component.__new__(components.Component)
    component.name, component.meta, component.compared = "a/b", {"tolerance": 1e-3}, set()
    component.arrays = {"in_x": np.ones(2), "out_x": np.ones(2), "out_y": np.ones(2)}
    component.compare("out_x", np.float32([1.0, 1.0005]))
    assert component.left() == ["out_y"]
    with pytest.raises(AssertionError, match="a/b: out_y"):
        component.compare("out_y", np.float32([1.0, 1.01]))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (1e-5, (1e-5, 1e-5)),
        ("rtol 1e-5", (1e-5, 0.0)),
        ("atol 2e-3, rtol 1e-3 (deep)", (1e-3, 2e-3)),
        ("exact", (0, 0)),
    ],
)
def test_tolerances_are_read_as_stated(stated, expected) -> None:
    component = components.Component.__new__(components.Component)
    component.meta = {"tolerance": stated}
    assert component.tolerance == expected
