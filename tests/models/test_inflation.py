"""Starting from a network of another extent over time: what is kept, and what is refused by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

from vidistill.core.errors import CheckpointError, ModelError
from vidistill.models.import_ import prefix_map
from vidistill.models.inflation import fit_time, inherit, inherit_file


def module(kernel: tuple[int, int, int], inside: int = 3) -> nn.Sequential:
    torch.manual_seed(sum(kernel))
    return nn.Sequential(nn.Conv3d(inside, 4, kernel), nn.BatchNorm3d(4))


@given(some.integers(1, 7), some.booleans())
def test_an_inflated_kernel_answers_a_still_clip_as_the_flat_one_answers_its_frame(time: int, flat: bool) -> None:
    frame, kernel = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3)
    deep = fit_time(kernel if flat else kernel[:, :, None], (4, 3, time, 3, 3))
    still = nn.functional.conv3d(frame[:, :, None].expand(-1, -1, time, -1, -1), deep)
    torch.testing.assert_close(still[:, :, 0], nn.functional.conv2d(frame, kernel), atol=1e-4, rtol=1e-4)


@given(some.integers(1, 7), some.booleans())
def test_the_sum_of_taps_undoes_inflation(time: int, flat: bool) -> None:
    kernel = torch.randn((2, 3, 5, 5) if flat else (2, 3, 1, 5, 5))
    deep = fit_time(kernel, (2, 3, time, 5, 5))
    torch.testing.assert_close(fit_time(deep, kernel.shape, "sum"), kernel)


@pytest.mark.parametrize(("time", "middle"), [(1, 0), (2, 1), (3, 1), (7, 3)])
def test_a_cut_kernel_is_the_tap_of_the_middle_frame(time: int, middle: int) -> None:
    kernel = torch.randn(2, 3, time, 5, 5)
    assert torch.equal(fit_time(kernel, (2, 3, 1, 5, 5)), kernel[:, :, middle : middle + 1])
    assert torch.equal(fit_time(kernel, (2, 3, 5, 5)), kernel[:, :, middle])


@pytest.mark.parametrize("shape", [(2, 3, 5, 5, 5), (2, 4, 1, 5, 5), (2, 3, 1, 3, 3), (6, 5), (2, 3, 3)])
def test_kernels_that_differ_in_more_than_a_flat_time_are_left_alone(shape: tuple[int, ...]) -> None:
    kernel = torch.randn(2, 3, 3, 5, 5)
    assert fit_time(kernel, shape) is kernel


def test_a_student_has_its_teachers_tensors_and_flat_kernels() -> None:
    teacher, student = module((3, 5, 5)), module((1, 5, 5))
    nn.init.normal_(teacher[1].running_mean)
    inherit(student, teacher.state_dict())
    assert torch.equal(student[0].weight, teacher[0].weight[:, :, 1:2])
    assert torch.equal(student[0].bias, teacher[0].bias)
    assert torch.equal(student[1].running_mean, teacher[1].running_mean)


def test_first_kernels_are_adapted_to_the_channels_and_others_are_not() -> None:
    teacher, student = module((3, 5, 5)), module((1, 5, 5), inside=2)
    inherit(student, teacher.state_dict(), "sum", first=("0.weight",))
    grey = torch.randn(1, 1, 3, 5, 5)[:, :, :1]
    with torch.no_grad():
        ours = student[0](grey.expand(-1, 2, 1, -1, -1))
        theirs = teacher[0](grey.expand(-1, 3, 3, -1, -1))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match=r"1 of another shape \(0\.weight \(4, 3, 3, 5, 5\)"):
        inherit(student, teacher.state_dict())


def test_what_does_not_fit_is_named_and_nothing_is_changed() -> None:
    teacher, student = module((3, 5, 5)).state_dict(), module((1, 5, 5))
    before = {key: value.clone() for key, value in student.state_dict().items()}
    teacher["2.weight"] = teacher.pop("1.weight")
    with pytest.raises(
        CheckpointError, match=r"file: .*Sequential: 1 missing \(1\.weight\); 1 unexpected \(2\.weight\)"
    ):
        inherit(student, teacher, where="file")
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_a_file_is_read_through_its_key_map_without_what_lies_elsewhere(tmp_path) -> None:
    teacher, student = module((3, 5, 5)), module((1, 5, 5))
    # Files from before PyTorch 0.4.1 have no counter of batches.
    state = {f"net.{key}": value for key, value in teacher.state_dict().items() if "num_batches" not in key}
    torch.save({**state, "fc.weight": torch.zeros(2, 4)}, tmp_path / "teacher.pt")
    inherit_file(student, str(tmp_path / "teacher.pt"), prefix_map({"net.": "backbone."}), "backbone.")
    assert torch.equal(student[0].weight, teacher[0].weight[:, :, 1:2])
    with pytest.raises(ModelError, match=r"no weights file 'nowhere\.pt'"):
        inherit_file(student, "nowhere.pt", prefix_map({}), "backbone.")
