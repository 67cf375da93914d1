"""The temperature that learns against the student."""

from __future__ import annotations

import math

import pytest
import torch

from vidistill.core.types import ENSEMBLE
from vidistill.methods.ctkd import reversal
from vidistill.methods.kd import kd_loss


def mean(losses) -> torch.Tensor:
    return losses["ctkd"].values.mean()


def test_it_is_kd_at_the_temperature_of_the_moment(make_world) -> None:
    world = make_world()
    values = world.build("ctkd", heads=["verb"])(world.student, world.teachers, world.batch)["ctkd"].values
    temperature = 1 + 20 / (1 + math.exp(-1))
    expected = kd_loss(world.student.logits["verb"], world.teachers[ENSEMBLE].logits["verb"], temperature)
    torch.testing.assert_close(values, expected)


def test_the_gradient_turns_by_a_cosine_and_stays_turned() -> None:
    factors = [reversal(epoch, 10) for epoch in range(15)]
    assert factors[4] == pytest.approx(-0.5) and factors[9:] == [-1.0] * 6
    assert all(a >= b for a, b in zip(factors, factors[1:], strict=False))
    assert factors[0] == pytest.approx(-0.5 * (1 - math.cos(math.pi / 10)))


@pytest.mark.parametrize("epoch", [0, 4, 30])
def test_the_temperature_climbs_what_the_student_descends(epoch, make_world) -> None:
    world = make_world()
    method = world.build("ctkd")
    method.start_epoch(epoch, 40)
    mean(method(world.student, world.teachers, world.batch)).backward()
    turned = float(method.raw.grad)
    method.raw.grad = None
    method.gradient_factor.fill_(1.0)
    mean(method(world.student, world.teachers, world.batch)).backward()
    assert turned == pytest.approx(reversal(epoch, 10) * float(method.raw.grad), rel=1e-5)
    assert turned != 0


def test_the_epoch_is_no_memory_and_the_temperature_is(make_world) -> None:
    assert set(make_world().build("ctkd").state_dict()) == {"raw"}


def test_a_sum_tells_its_methods_the_epoch(make_world) -> None:
    method = make_world().build("sum", methods=[{"name": "kd"}, {"name": "sum", "methods": [{"name": "ctkd"}]}])
    method.start_epoch(4, 10)
    assert float(method.methods[1].methods[0].gradient_factor) == pytest.approx(-0.5)


def test_methods_that_ask_nothing_of_the_epoch_are_told_all_the_same(make_world) -> None:
    assert make_world().build("kd").start_epoch(3, 10) is None
