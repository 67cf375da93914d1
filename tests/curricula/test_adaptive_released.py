"""The published loop as a curriculum: against the recorded run of the published code, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidistill.core.errors import DataError, RecipeError, StoreError, VidistillError
from vidistill.curricula import Curriculum, build_curriculum
from vidistill.curricula.released import ReleasedMemory, batch_kernel, select_batches
from vidistill.data.batches import epoch_batches

RECORDED = Path(__file__).parents[1] / "parity" / "data" / "adaptive"
CLIPS = np.arange(44) * 3 + 2


def released(clips: np.ndarray = CLIPS, seed: int = 0, epochs: int = 12, **options: Any) -> Curriculum:
    sizes = {"selection_batch": 4, "train_batch": 2}
    return build_curriculum("adaptive", clips, seed, epochs, {"variant": "released", **sizes, **options})


def survey_of(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=random), torch.randn(count, 6, generator=random)


def taught(*surveys: int, **options: Any) -> Curriculum:
    curriculum = released(**options)
    for survey in surveys:
        curriculum.learn(survey, curriculum.clips, *survey_of(len(curriculum.clips), survey))
    return curriculum


@pytest.mark.parametrize("run", ["run_sakd_tiny_kd", "run_sakd_tiny_crosskd"])
def test_the_recorded_rounds_of_the_published_code_come_out(run: str, monkeypatch) -> None:
    with np.load(RECORDED / f"{run}.npz") as file:
        recorded = {name: torch.from_numpy(file[name]) for name in file}
    curriculum, bank = released(ratio=0.1, interval=5), torch.zeros(44, 12)
    for number, each in enumerate(curriculum.surveys):
        given = {k.split("_", 2)[2]: v for k, v in recorded.items() if f"_round{number}_" in k}
        np.testing.assert_allclose(each.rate, given["beta"], rtol=1e-6)
        batches, picks = given["batch_index"], iter(given["picks"].tolist())
        # What teachers said of the interrupted clips: taken out of the recorded average of it and what was before.
        features, after = torch.zeros(44, 12), bank.clone()
        after[batches] = given["features"]
        features = after if number == 0 or each.kind == "shuffle" else (after - 0.1 * bank) / 0.9
        losses = torch.zeros(44)
        losses[batches] = given["kd"][:, None]
        monkeypatch.setattr(curriculum, "batches", lambda _, batches=batches: batches)
        monkeypatch.setattr(torch, "multinomial", lambda *_, picks=picks, **__: torch.tensor([next(picks)]))
        assert curriculum.survey(number * 5) == number
        curriculum.learn(number, CLIPS, losses, features)
        learned = curriculum.learned_of()
        np.testing.assert_allclose(learned["strength"], given["hisloss"], atol=1e-5)
        np.testing.assert_array_equal(curriculum.select(number * 5), CLIPS[given["selected"]])
        np.testing.assert_allclose(curriculum.state_dict()["memory"]["bank"], after, atol=1e-5)
        bank = after
    np.testing.assert_array_equal(curriculum.state_dict()["memory"]["counts"], recorded["out_select_counts"])


def test_rounds_are_those_of_the_functions_that_parity_checks(monkeypatch) -> None:
    def likeliest(weights: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return weights.argmax()

    monkeypatch.setattr(torch, "multinomial", likeliest)
    curriculum, memory = released(ratio=0.3, interval=2), ReleasedMemory(44, 6)
    for survey, each in enumerate(curriculum.surveys):
        losses, features = survey_of(44, survey)
        curriculum.learn(survey, CLIPS, losses, features)
        batches = curriculum.batches(survey)
        memory.remember(batches.flatten(), features[batches.flatten()], each.kind)
        difficulty = memory.finish_round(batches, losses[batches].mean(1), each.rate)
        picks, _ = select_batches(batch_kernel(memory.bank[batches]), difficulty[:-1], 6, lambda w, _: int(w.argmax()))
        memory.selected(batches[picks])
        np.testing.assert_array_equal(curriculum.select(2 * survey), CLIPS[batches[picks].flatten()])
        assert torch.equal(torch.from_numpy(curriculum.learned_of()["strength"]), memory.strength)
    assert {each.kind for each in curriculum.surveys} == {"none", "dropout", "shuffle"}


def test_hard_batches_are_preferred_and_duplicates_are_shown_twice() -> None:
    batches, means, duplicates = None, [], 0
    for seed in range(30):
        curriculum = released(seed=seed, ratio=0.2)
        batches = curriculum.batches(0)
        losses = torch.zeros(44)
        losses[batches[:5]] = 1.0
        curriculum.learn(0, CLIPS, losses, torch.randn(44, 6, generator=torch.Generator().manual_seed(seed)))
        chosen = curriculum.select(0)
        means.append(losses[np.searchsorted(CLIPS, chosen)].mean())
        duplicates += len(chosen) - len(set(chosen.tolist()))
        shown = [clip for batch in epoch_batches(chosen, 0, [0], 0, 2) for clip, _ in batch]
        assert sorted(shown) == sorted(chosen.tolist())
    assert np.mean(means) > 0.5 and duplicates > 0


def test_one_mean_strength_weighs_a_training_batch() -> None:
    curriculum = taught(0)
    strength = torch.from_numpy(curriculum.learned_of()["strength"])
    last = curriculum.batches(0)[-1]
    assert (strength > 0).nonzero().flatten().tolist() in ([], sorted(last.tolist()))
    rows = torch.tensor([int(last[0]), *[row for row in range(44) if row not in last.tolist()][:3]])
    labels, teachers = curriculum.weights(torch.from_numpy(CLIPS)[rows])
    expected = 2 * strength[rows].mean()
    torch.testing.assert_close(teachers, expected.expand(4))
    torch.testing.assert_close(labels, 2 - expected.expand(4))


def test_clips_that_fill_no_batch_are_left_out_of_the_round() -> None:
    clips = np.arange(46)
    curriculum = released(clips)
    batches = curriculum.batches(0)
    assert batches.shape == (11, 4) and len(set(batches.flatten().tolist())) == 44
    missed = np.setdiff1d(clips, batches.numpy())
    curriculum.learn(0, clips, *survey_of(46))
    state = curriculum.state_dict()["memory"]
    assert not state["bank"][missed].any() and not state["counts"][missed].any()
    assert not (released(clips, seed=1).batches(0) == batches).all() and not (curriculum.batches(1) == batches).all()


def test_an_epoch_drops_what_fills_no_training_batch_others_each_time() -> None:
    curriculum = taught(0, ratio=0.5, train_batch=7, selection_batch=5)
    assert curriculum.size == 14 and len(curriculum.state_dict()["chosen"]) == 15
    epochs = [curriculum.select(epoch).tolist() for epoch in range(12)]
    assert {len(epoch) for epoch in epochs} == {14} and len({tuple(epoch) for epoch in epochs}) > 1
    assert epochs == [curriculum.select(epoch).tolist() for epoch in range(12)]


def test_a_memory_that_is_taken_up_goes_on_as_the_old_one_would() -> None:
    old, new = taught(0), released()
    new.load_state_dict(old.state_dict())
    np.testing.assert_array_equal(old.select(3), new.select(3))
    assert new.survey(0) is None and new.survey(5) == 1
    for curriculum in (old, new):
        curriculum.learn(1, CLIPS, *survey_of(44, 1))
    np.testing.assert_array_equal(old.select(5), new.select(5))
    for name, value in old.state_dict()["memory"].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(new.state_dict()["memory"][name])), name
    with pytest.raises(StoreError, match="other clips"):
        released(CLIPS + 1).load_state_dict(old.state_dict())


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 400), st.integers(1, 20))
def test_a_ratio_that_selects_nothing_names_the_least_that_does(clips: int, train_batch: int) -> None:
    train_batch = min(train_batch, clips)
    curriculum = released(np.arange(clips), ratio=1e-9, train_batch=train_batch)
    with pytest.raises(RecipeError, match="curriculum.ratio: ratio 1e-09 of") as error:
        curriculum.survey(0)
    words = str(error.value)
    if "Set it to" in words:
        least = float(words.split("Set it to ")[1].split()[0])
        assert released(np.arange(clips), ratio=least, train_batch=train_batch).survey(0) == 0
        with pytest.raises(RecipeError):
            released(np.arange(clips), ratio=least - 2e-6, train_batch=train_batch).survey(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection_batch": 23}, "44 clips are fewer than two selection batches of 23.*Set it to 22 or less"),
        ({"train_batch": 45}, "44 clips do not fill one training batch of 45"),
    ],
)
def test_sets_of_one_batch_are_refused_before_the_first_survey(options: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        released(**options).survey(0)


def test_equal_difficulties_are_an_error_and_so_is_a_loss_that_is_not_finite() -> None:
    losses, features = survey_of(44)
    with pytest.raises(VidistillError, match="cannot rank 11 batches of equal difficulty"):
        released().learn(0, CLIPS, torch.ones(44), features)
    losses[4] = float("inf")
    with pytest.raises(VidistillError, match="1 of 44 clips have a distillation loss that is not finite"):
        released().learn(0, CLIPS, losses, features)


def test_the_shuffle_breaks_with_an_odd_number_of_frames() -> None:
    shuffle = released(eta=0.0).surveys[0]
    assert shuffle.for_clip(8, 0, "a", 0) is not None
    with pytest.raises(DataError, match="cannot exchange the halves of 7 frames"):
        shuffle.for_clip(7, 0, "a", 0)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"variant": "relesed"}, "Did you mean 'adaptive/released'"),
        ({"variant": "released", "gamma": 0.5}, "unknown key 'gamma'"),
        ({"variant": "released", "ratio": 0.0}, "'ratio'"),
    ],
)
def test_options_of_the_other_variant_are_refused(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(RecipeError, match=hint):
        build_curriculum("adaptive", CLIPS, 0, 12, options)
