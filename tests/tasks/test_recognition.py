from __future__ import annotations

import numpy as np
import pytest
import torch

from vidistill.core.errors import DataError, RecipeError
from vidistill.core.types import Batch, Outputs
from vidistill.tasks import TASKS, Recognition

CLASSES = {"verb": 3, "noun": 6}
RANDOM = np.random.default_rng(4)
METRICS = ("top1", "top5", "mean_class", "ece", "adaptive_ece", "nll", "brier")
LOGITS = {head: RANDOM.normal(size=(40, count)) for head, count in CLASSES.items()}
LABELS = {head: np.where(RANDOM.random(40) < 0.6, LOGITS[head].argmax(1), 0) for head in CLASSES}


def world(labels: dict[str, list[int]]) -> tuple[Outputs, Batch]:
    torch.manual_seed(0)
    count = len(next(iter(labels.values())))
    logits = {head: torch.randn(count, CLASSES[head], requires_grad=True) for head in labels}
    tensors = {head: torch.tensor(values) for head, values in labels.items()}
    return Outputs(logits, torch.zeros(count, 1)), Batch({}, tensors, torch.arange(count), torch.zeros(count), {})


def test_recognition_is_registered() -> None:
    assert TASKS.get("recognition") is Recognition


def test_the_loss_is_a_cross_entropy_a_clip_and_head_averaged_over_heads() -> None:
    outputs, batch = world({"verb": [0, 2], "noun": [5, 1]})
    losses = Recognition(CLASSES).loss(outputs, batch)
    assert set(losses) == {"label_verb", "label_noun"}
    for head in CLASSES:
        loss = losses[f"label_{head}"]
        rows = outputs.logits[head].detach().numpy()
        labels = batch.labels[head].numpy()
        expected = np.log(np.exp(rows).sum(1)) - rows[np.arange(2), labels]
        np.testing.assert_allclose(loss.values.detach(), expected, rtol=1e-5)
        assert loss.weight == 0.5 and not loss.distillation and loss.per_clip


def test_clips_without_a_label_give_no_loss_and_no_gradient() -> None:
    outputs, batch = world({"verb": [0, -1], "noun": [-1, 1]})
    losses = Recognition(CLASSES, label_smoothing=0.1).loss(outputs, batch)
    assert losses["label_verb"].values[1] == 0 and losses["label_verb"].values[0] > 0
    losses["label_verb"].values.sum().backward()
    assert (outputs.logits["verb"].grad[1] == 0).all()


def test_head_weights_scale_their_head_and_zero_removes_it() -> None:
    outputs, batch = world({"verb": [0, 1], "noun": [3, 1]})
    losses = Recognition(CLASSES, head_weights={"verb": 3.0}).loss(outputs, batch)
    assert {name: loss.weight for name, loss in losses.items()} == {"label_verb": 1.5, "label_noun": 0.5}
    losses = Recognition(CLASSES, head_weights={"noun": 0.0}).loss(outputs, batch)
    assert {name: loss.weight for name, loss in losses.items()} == {"label_verb": 1.0}


def test_half_precision_logits_give_full_precision_losses() -> None:
    outputs, batch = world({"verb": [0, 1]})
    outputs.logits["verb"] = outputs.logits["verb"].bfloat16()
    assert Recognition({"verb": 3}).loss(outputs, batch)["label_verb"].values.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_weights": {"vreb": 1.0}}, "no head 'vreb'.*Did you mean 'verb'"),
        ({"head_weights": {"verb": -1.0}}, "head_weights must be 0 or more"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, message) -> None:
    with pytest.raises(RecipeError, match=message):
        Recognition(CLASSES, **options)


def test_decoding_gives_probabilities_and_the_likeliest_classes() -> None:
    decoded = Recognition(CLASSES).decode(LOGITS)
    np.testing.assert_allclose(decoded["noun"]["probabilities"].sum(1), 1.0)
    assert decoded["verb"]["top5"].shape == (40, 3)
    assert decoded["noun"]["top5"].shape == (40, 5)
    assert (decoded["noun"]["top5"][:, 0] == LOGITS["noun"].argmax(1)).all()
    ordered = np.take_along_axis(LOGITS["noun"], decoded["noun"]["top5"], 1)
    assert (np.diff(ordered, axis=1) <= 0).all()


def test_metrics_have_flat_names_values_and_intervals() -> None:
    found = Recognition(CLASSES).metrics(LOGITS, LABELS)
    names = {f"{head}/{metric}" for head in CLASSES for metric in METRICS}
    assert set(found) == names | {"all/top1"}
    right = {head: LOGITS[head].argmax(1) == LABELS[head] for head in CLASSES}
    assert found["verb/top1"].value == right["verb"].mean()
    assert found["verb/top5"].value == 1.0
    assert found["all/top1"].value == (right["verb"] & right["noun"]).mean()
    for interval in found.values():
        assert interval.low <= interval.high
    for name in ("verb/top1", "noun/nll", "all/top1"):
        assert found[name].low < found[name].value < found[name].high


def test_one_head_has_no_pair_accuracy() -> None:
    assert "all/top1" not in Recognition({"verb": 3}).metrics({"verb": LOGITS["verb"]}, {"verb": LABELS["verb"]})


def test_a_subset_is_the_metrics_of_those_clips_alone() -> None:
    chosen = np.arange(40) % 3 == 0
    task = Recognition(CLASSES)
    part = task.metrics(LOGITS, LABELS, subset=chosen)
    alone = task.metrics({h: v[chosen] for h, v in LOGITS.items()}, {h: v[chosen] for h, v in LABELS.items()})
    for name, interval in part.items():
        assert interval.value == pytest.approx(alone[name].value)
        assert interval.low == pytest.approx(alone[name].low, abs=0.25)  # how many of the subset are drawn varies
    whole = task.metrics(LOGITS, LABELS)
    assert part["verb/nll"].high - part["verb/nll"].low > whole["verb/nll"].high - whole["verb/nll"].low
    empty = task.metrics(LOGITS, LABELS, subset=np.zeros(40, bool))
    assert all(np.isnan(interval.value) for interval in empty.values())


def test_clips_without_a_label_do_not_count() -> None:
    labels = {"verb": LABELS["verb"].copy(), "noun": LABELS["noun"]}
    labels["verb"][:10] = -1
    found = Recognition(CLASSES).metrics(LOGITS, labels, bootstrap=0)
    right = {head: LOGITS[head].argmax(1) == LABELS[head] for head in CLASSES}
    assert found["verb/top1"].value == right["verb"][10:].mean()
    assert found["noun/top1"].value == right["noun"].mean()
    assert found["all/top1"].value == (right["verb"] & right["noun"])[10:].mean()


def test_logits_that_do_not_fit_are_refused() -> None:
    task = Recognition({"verb": 4})
    with pytest.raises(DataError, match="logits of head 'verb' have shape"):
        task.metrics({"verb": LOGITS["verb"]}, {"verb": LABELS["verb"]})
    with pytest.raises(DataError, match="label 7 of head 'verb'"):
        Recognition({"verb": 3}).metrics({"verb": LOGITS["verb"]}, {"verb": np.full(40, 7)})
