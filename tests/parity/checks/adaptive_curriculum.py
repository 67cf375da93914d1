"""Checks of the adaptive system's curriculum: rates, interruption, selection, and the published loop."""

from __future__ import annotations

import re

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor, nn

from vidistill.core.types import Batch, Losses, Outputs
from vidistill.curricula.interruption import (
    Interruption,
    apply_interruption,
    drop,
    exchange,
    interruption_at,
    interruption_rate,
)
from vidistill.curricula.released import ReleasedMemory, batch_kernel, cholesky, select_batches
from vidistill.methods import MethodContext, build_method
from vidistill.tasks import Recognition


@checks("adaptive/schedule_beta*")
def check_rates(component: Component) -> None:
    eta, power = component.number(r"eta ([\d.]*\d)", 0.5), component.number(r"power ([\d.]*\d)", 0.9)
    for match in component.outputs(r"(?P<form>[a-z]+)_(?P<epochs>\d+)"):
        epochs = int(match["epochs"])
        options = {"form": match["form"], "eta": eta, "power": power}
        numbers = component[f"in_epochs_{epochs}"].tolist()
        component.compare(match[0], [interruption_rate(number - 1, epochs, **options) for number in numbers])
        kinds = {number: interruption_at(number - 1, epochs, **options).kind for number in numbers}
        assert all(
            (kind == "shuffle") == (component[match[0]][numbers.index(n)] == np.float32(eta))
            for n, kind in kinds.items()
        )


@checks("adaptive/interruption*")
def check_interruption(component: Component) -> None:
    clips = torch.from_numpy(component["in_x"])
    for match in component.outputs(r"drop(?P<case>\w+)"):
        order = component[f"in_order{match['case']}"]
        interrupted = drop(order, float(component[f"in_ratio{match['case']}"]))
        component.compare(match[0], apply_interruption(clips, 2, interrupted))
    for match in component.outputs(r"shuffle(?P<case>\w+)"):
        order = np.concatenate([component[f"in_swap{match['case']}"], component[f"in_remain{match['case']}"]])
        component.compare(match[0], apply_interruption(clips, 2, exchange(order, "released")))


@checks("adaptive/select_dpp_reference*")
def check_selection(component: Component) -> None:
    features, losses = (torch.from_numpy(component[f"in_{name}"]) for name in ("features", "losses"))
    kernel, difficulty = batch_kernel(features), losses[:-1]
    if "out_kernel" in component:
        component.compare("out_kernel", kernel)
    if "out_cholesky" in component:
        component.compare("out_cholesky", cholesky(kernel, difficulty))
    for mode in [match["mode"] for match in component.outputs(r"(?P<mode>[a-z]+)_picks")]:
        expected = component[f"out_{mode}_picks"]
        options = {}
        if mode == "greedy":
            options["choose"] = lambda weights, _: int(weights.argmax())
        elif mode != "seeded":
            forced = component[f"in_{mode}_picks"].tolist()
            options["choose"] = lambda _, number, forced=forced: forced[number]
        seen: list[Tensor] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(component.number(r"manual_seed\((\d+)\)", 3407)))
            picks, barred = select_batches(kernel, difficulty, len(expected), observe=seen.append, **options)
        padded = np.zeros((len(expected), len(kernel)), np.float32)
        for row, weights in zip(padded, seen, strict=True):
            row[: len(weights)] = weights
        ours = {
            "picks": picks,
            "probs": padded,
            "selected": component["in_indices"][picks],
            "final_positions": barred,
        }
        for name, value in ours.items():
            if f"out_{mode}_{name}" in component:
                component.compare(f"out_{mode}_{name}", value)


class Layers(nn.Module):
    """The loop's tiny networks: linear layers with tanh between them; the last one is the head."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        names = dict.fromkeys(key.rsplit(".", 1)[0] for key in shapes)
        self.order = [name for name in ("body", "mid", "fc") if name in names]
        assert set(self.order) == set(names), f"layers of another network: {sorted(names)}"
        for name in self.order:
            rows, columns = shapes[f"{name}.weight"]
            self.add_module(name, nn.Linear(columns, rows))
        fill.fill_torch(self)

    def forward(self, x: Tensor) -> Outputs:
        embedding = x.flatten(1)
        for name in self.order[:-1]:
            embedding = torch.tanh(self.get_submodule(name)(embedding))
        return Outputs({"action": self.get_submodule("fc")(embedding)}, embedding)


class PublishedLoop:
    """The published loop on our parts; the component gives what was drawn at random."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.kind = re.match(r"adaptive/run_sakd_tiny_(dkd|crosskd|kd)", component.name)[1]
        self.student, self.teacher = (Layers(component.meta["state"][who]) for who in ("student", "teacher"))
        self.clips, self.labels = torch.from_numpy(component["in_x"]), torch.from_numpy(component["in_y"]).long()
        sizes = [net.fc.in_features for net in (self.student, self.teacher)]
        self.classes = {"action": self.student.fc.out_features}
        self.memory = ReleasedMemory(len(self.clips), sizes[1])
        context = MethodContext(sizes[0], {"teacher": sizes[1]}, self.classes, lambda _, __: self.teacher.fc)
        options = {"teacher": "teacher", "temperature": 4.0}
        options |= (
            {"weight": 1.0, "alpha": 0.1, "beta": 1.0}
            if self.kind == "dkd"
            else {"weight": component.number(r"(\d*\.?\d+) KD\b", 0.9)}
        )
        self.method = build_method(
            self.kind, context, options | ({"variant": "released"} if self.kind == "crosskd" else {})
        )
        self.task = Recognition(self.classes)
        rate, momentum, decay = (
            component.number(rf"{name} (\d[\d.e-]*\d)", default)
            for name, default in (("lr", 0.01), ("momentum", 0.9), ("weight decay", 1e-4))
        )
        self.optimizer = torch.optim.SGD(self.student.parameters(), rate, momentum=momentum, weight_decay=decay)

    def losses(self, inputs: Tensor, labels: Tensor) -> tuple[Outputs, Outputs, Losses, Losses]:
        """Student, teacher, label terms with the published weight 0.1, distillation terms."""
        student = self.student(inputs)
        with torch.no_grad():
            teacher = self.teacher(inputs)
        count = len(labels)
        batch = Batch({}, {"action": labels}, torch.arange(count), torch.zeros(count), {})
        labelled = self.task.loss(student, batch)
        for loss in labelled.values():
            loss.weight *= self.component.number(r"(\d*\.?\d+) CE\b", 0.1)
        return student, teacher, labelled, self.method(student, {"teacher": teacher}, batch)

    def choose(self, number: int, epoch: int, epochs: int) -> None:
        """Round `number` at an epoch from 0."""
        component, memory = self.component, self.memory
        given = {
            k.removeprefix(f"in_round{number}_"): v for k, v in component.arrays.items() if f"in_round{number}_" in k
        }
        batches = torch.from_numpy(given["batch_index"])
        interruption = interruption_at(epoch, epochs)
        probability = memory.batch_probability(batches)
        weighted: dict[str, list[Tensor]] = {"kd": [], "ce": []}
        for place, rows in enumerate(batches):
            clips = apply_interruption(self.clips[rows], 2, self._interrupted(interruption, given, place))
            with torch.no_grad():
                _, teacher, labelled, taught = self.losses(clips, self.labels[rows])
            weighted["ce"].append(mean(labelled))
            weighted["kd"].append(mean(taught))
            memory.remember(rows, teacher.embedding, interruption.kind)
        losses = torch.stack(weighted["kd"])
        difficulty = memory.finish_round(batches, losses, interruption.rate)
        features = memory.bank[batches]
        kernel = batch_kernel(features)
        picks = given["picks"].tolist()
        chosen, _ = select_batches(kernel, difficulty[:-1], len(picks), lambda _, place: picks[place])
        self.subset = batches[chosen].flatten()
        memory.selected(self.subset)
        ours = {
            "kd": losses,
            "ce": torch.stack(weighted["ce"]),
            "selprob": probability,
            "adjusted": losses * probability,
            "beta": np.float32(interruption.rate),
            "features": features,
            "normloss": difficulty,
            "hisloss": memory.strength,
            "kernel": kernel,
            "selected": self.subset,
        }
        for name, value in ours.items():
            if f"out_round{number}_{name}" in component:
                component.compare(f"out_round{number}_{name}", value)

    def _interrupted(self, interruption: Interruption, given: dict[str, np.ndarray], place: int):
        if interruption.kind == "shuffle":
            swap = given["swap"][place]
            rest = np.setdiff1d(np.arange(self.clips.shape[2]), swap)
            return exchange(np.concatenate([swap, rest]), "released")
        return drop(given["frame_order"][place], interruption.rate)

    def train(self, batches: Tensor) -> tuple[float, float]:
        """One epoch over batches (M, B) of clips: mean loss and accuracy."""
        assert set(batches.flatten().tolist()) <= set(self.subset.tolist())
        losses, right = [], 0
        for rows in batches:
            student, _, labelled, taught = self.losses(self.clips[rows], self.labels[rows])
            of_labels, of_teacher = self.memory.factors(rows)
            loss = weighed(labelled, of_labels) + weighed(taught, of_teacher)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
            right += int((student.logits["action"].argmax(1) == self.labels[rows]).sum())
        return float(np.mean(losses)), right / len(self.subset)


def weighed(losses: Losses, factors: Tensor) -> Tensor:
    return torch.stack([loss.weight * (loss.values * factors).mean() for loss in losses.values()]).sum()


def mean(losses: Losses) -> Tensor:
    return torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum()


def check_validation(component: Component, measured: list[tuple[int, int]], size: int) -> None:
    """Published numbers are of all but one clip: the count of right ones is ours, or one less."""
    left_out = size % int(component.number(r"val batch (\d+)", 4))
    for (first, five), published in zip(measured, component["out_val_top1_top5"], strict=True):
        counts = published / 100.0 * (size - left_out)
        for ours, theirs in zip((first, five), counts, strict=True):
            assert -1e-3 < ours - theirs < left_out + 1e-3, component.name
    component.settle("out_val_top1_top5")
    if "out_best_epochs" in component:
        first = np.concatenate([[0.0], component["out_val_top1_top5"][:, 0]])
        best = np.maximum.accumulate(first)
        component.compare("out_best_epochs", np.flatnonzero(first[1:] > best[:-1]) + 1)


@checks("adaptive/run_sakd_tiny_*")
def check_loop(component: Component) -> None:
    loop = PublishedLoop(component)
    order = torch.from_numpy(component["in_train_order"])
    epochs = len(order)
    named = re.search(r"selection at epochs ([\d, ]+)", component.text)
    rounds = [int(number) - 1 for number in named[1].replace(",", " ").split()] if named else range(0, epochs, 5)
    trained, measured = [], []
    for epoch in range(epochs):
        if epoch in rounds:
            loop.choose(list(rounds).index(epoch), epoch, epochs)
        trained.append(loop.train(order[epoch]))
        with torch.no_grad():
            logits = loop.student(torch.from_numpy(component["in_val_x"])).logits["action"]
        ranks = logits.topk(min(5, logits.shape[1])).indices == torch.from_numpy(component["in_val_y"])[:, None]
        measured.append((int(ranks[:, 0].sum()), int(ranks.any(1).sum())))
    ours = {
        "epoch_loss": [loss for loss, _ in trained],
        "epoch_acc": [right for _, right in trained],
        "select_counts": loop.memory.counts,
        **{f"student_final.{key}": value for key, value in loop.student.state_dict().items()},
    }
    for name, value in ours.items():
        if f"out_{name}" in component:
            component.compare(f"out_{name}", value)
    if "out_val_top1_top5" in component:
        check_validation(component, measured, len(component["in_val_y"]))
