"""Checks of the few-shot system's episodes, distillers, losses, scores and frame choice."""

from __future__ import annotations

import re

import numpy as np
import torch
from components import Component, checks
from torch import Tensor
from torch.nn import functional

from vidistill.core.types import Losses
from vidistill.data.episodes import EpisodeSampler
from vidistill.data.sampling import spanning_indices
from vidistill.methods import MethodContext, build_method
from vidistill.methods.kd import kd_loss
from vidistill.methods.litemkd import DISTILLED, EPISODE, PATCHES, EpisodeRows, frame_loss, pearson_loss
from vidistill.methods.litemkd_recipes import DISTILLERS, Distiller
from vidistill.tasks.episode_metrics import episode_accuracies, episode_score

CONTEXT = MethodContext(8, {"teacher": 8}, {EPISODE: 5}, lambda _, __: None)


def tensor(component: Component, key: str) -> Tensor | None:
    return torch.from_numpy(component[key]) if key in component else None


def total(losses: Losses) -> Tensor:
    return sum((loss.weight * loss.values.mean() for loss in losses.values()), torch.zeros(()))


def terms(
    name: str, rows: EpisodeRows, teacher: EpisodeRows, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """What a published distiller gives: its taught part and its label part."""
    distiller: Distiller = DISTILLERS[name].released()
    method = build_method("litemkd", CONTEXT, {**distiller.options, "temperature": temperature})
    heads = {EPISODE: rows.labelled, DISTILLED: rows.distilled, PATCHES: rows.patches}
    labelled = [weight * functional.cross_entropy(heads[head], labels) for head, weight in distiller.labels.items()]
    return total(method.compare(rows, teacher, labels)), torch.stack(labelled).sum()


def published_rows(name: str, given: dict[str, Tensor | None]) -> EpisodeRows:
    """The student's arrays in the places that the published distiller reads them from."""
    labelled, distilled = given["ce"], given["kl"]
    if DISTILLERS[name].streams == 1:
        labelled = distilled
    elif name in ("fc_2", "fc_2_wsl"):  # these call the labelled stream fc_1
        labelled, distilled = distilled, labelled
    elif name.startswith("strm"):
        labelled = given["fr2"]
    support = {"labelled": given["sup"], "distilled": given.get("sup_kl")}
    three = {stream: values[None] for stream, values in support.items() if values is not None}
    return EpisodeRows(labelled, distilled, three, given.get("pat"))


def arrays_of(component: Component, who: str) -> dict[str, Tensor | None]:
    names = ("kl", "ce", "sup", "sup_kl", "pat", "fr2")
    return {name: tensor(component, f"in_{who}_{name}") for name in names}


def teacher_rows(component: Component) -> EpisodeRows:
    kl, support = tensor(component, "in_t_kl"), tensor(component, "in_t_sup")
    return EpisodeRows(kl, kl, {"labelled": support[None]})


def temperature_of(component: Component) -> float:
    return component.number(r"\b(?:T ?=? ?|temperature )([\d.]+\d|\d)", 4)


@checks("fewshot/distillers_*")
def check_distillers(component: Component) -> None:
    labels, degree = tensor(component, "in_labels").long(), temperature_of(component)
    given, teacher = arrays_of(component, "s"), teacher_rows(component)
    # "rtol 1e-5" of a sum of float32 terms: what cancels to zero is zero to the terms' precision.
    near = {"atol": 2e-6}
    for match in component.outputs(r"(?P<name>.+)"):
        name = match["name"]
        if name in DISTILLERS:
            taught, labelled = terms(name, published_rows(name, given), teacher, labels, degree)
            component.compare(match[0], taught + labelled, **near)
    rows = published_rows("fc_2_sup_dist", given)
    knowledge = kd_loss(rows.distilled, teacher.labelled, degree).mean()
    support = pearson_loss(rows.support["labelled"], teacher.support["labelled"]).mean()
    label = functional.cross_entropy(rows.labelled, labels)
    ours = {"main_soft": knowledge, "main_hard": 0.5 * support + label / 16, "ce_mean": label}
    ours |= {"inter_class_relation_sup": support}
    for match in component.outputs(r"(?P<name>.+)"):
        if match["name"] in ours:
            component.compare(match[0], ours[match["name"]], **near)
        elif found := re.fullmatch(r"kd_loss_T([\d.]+)", match["name"]):
            component.compare(match[0], kd_loss(rows.distilled, teacher.labelled, float(found[1])).mean(), **near)


@checks("fewshot/distiller_main_grad*")
def check_gradient(component: Component) -> None:
    labels = tensor(component, "in_labels").long()
    name = re.search(r"(\w*fc_\w+)", component.text)[1]
    given = arrays_of(component, "s")
    leaves = {key: values.requires_grad_() for key, values in given.items() if values is not None}
    teacher = teacher_rows(component)
    taught, labelled = terms(name, published_rows(name, given), teacher, labels, temperature_of(component))
    component.compare("out_loss", taught + labelled)
    for match in component.outputs(r"grad_(?P<leaf>.+)"):
        gradient = torch.autograd.grad(taught + labelled, leaves[match["leaf"]], retain_graph=True)[0]
        # Entries are differences of probabilities and cancel: the tolerance is of the gradient's size.
        component.compare(match[0], gradient, atol=1e-6 * float(np.abs(component[match[0]]).max()))


@checks("fewshot/distiller_KL_feature*")
def check_features(component: Component) -> None:
    labels = tensor(component, "in_labels").long()
    student, teacher = (tensor(component, f"in_{who}_logits") for who in "st")
    rest = len(component["in_s_feature"]) - len(labels)  # frames beside the queries': the support's
    frames = [(f[None, :rest], f[rest:]) for f in (tensor(component, f"in_{who}_feature") for who in "st")]
    rows, theirs = (EpisodeRows(z, z, {}, frames=f) for z, f in zip((student, teacher), frames, strict=True))
    taught, labelled = terms("KL_feature", rows, theirs, labels, temperature_of(component))
    feature = frame_loss(*frames).mean()
    component.compare("out_hard_loss", labelled)
    component.compare("out_feature_loss", feature)
    component.compare("out_soft_loss", taught - feature)
    component.compare("out_loss", taught + labelled)


@checks("fewshot/distiller_support_sim*")
def check_similarities(component: Component) -> None:
    labels, degree = tensor(component, "in_labels").long(), temperature_of(component)
    (query, support), (their_query, their_support) = (
        (tensor(component, f"in_{who}_query"), tensor(component, f"in_{who}_support")) for who in "st"
    )
    rows = EpisodeRows(query, query, {}, similarities=support)
    theirs = EpisodeRows(their_query, their_query, {}, similarities=their_support)
    taught, labelled = terms("support_sim", rows, theirs, labels, degree)
    distiller = DISTILLERS["support_sim"].released()
    method = build_method("litemkd", CONTEXT, {**distiller.options, "temperature": degree})
    losses = method.compare(rows, theirs, labels)
    component.compare("out_hard_loss", labelled)
    component.compare("out_soft_support_loss", losses["support"].values.mean())
    component.compare("out_soft_query_loss", losses["query"].values.mean())
    component.compare("out_loss", taught + labelled)


@checks("fewshot/loss_trx_sum*")
def check_trx_loss(component: Component) -> None:
    logits, labels = tensor(component, "in_logits").flatten(0, -2), tensor(component, "in_labels").long()
    mean = functional.cross_entropy(logits, labels)
    component.compare("out_ce", mean)
    component.compare("out_loss", mean * len(labels))  # ours is the mean: the published sum is that times Q
    component.compare("out_loss_over_16", mean * len(labels) / 16)
    component.compare("out_accuracy", episode_accuracies(logits.numpy()[None], labels.numpy()[None])[0])


@checks("fewshot/loss_my*")
def check_correlation_loss(component: Component) -> None:
    """The published "MyLoss": a ratio that no method here uses; it is restated from this file's inputs alone."""
    support = tensor(component, "in_support").flatten(2)  # (way, shot, T * C)
    between, within = _pair_cosines(support.mean(1)[None]), _pair_cosines(support)
    component.compare("out_class_term", between.sum())
    component.compare("out_class_mean", between.mean())
    component.compare("out_video_mean", within.mean())
    component.compare("out_my_loss_ratio", between.mean() / within.mean())


def _pair_cosines(vectors: Tensor) -> Tensor:
    """Cosines of all pairs i <= j within each group (G, N, D)."""
    unit = functional.normalize(vectors, dim=-1)
    rows, columns = torch.triu_indices(vectors.shape[1], vectors.shape[1])
    return (unit @ unit.transpose(1, 2))[:, rows, columns]


@checks("fewshot/episode_accuracy*")
def check_accuracy(component: Component) -> None:
    labels = component["in_labels"][None]
    logits = {name: component[f"in_{name}"][None] for name in ("kl", "ce")}
    logits["sum"] = logits["kl"] + logits["ce"]
    for match in component.outputs(r"acc_(?P<name>\w+)"):
        component.compare(match[0], np.float32(episode_accuracies(logits[match["name"]], labels)[0]))


@checks("fewshot/metric_accuracy_ci*")
def check_interval(component: Component) -> None:
    score = episode_score(component["in_episode_acc"])
    stated = str(component.meta["tolerance"])
    near = {"rtol": float(stated)} if re.fullmatch(r"[\d.]+(e-?\d+)?", stated) else {}  # a number written as text
    component.compare("out_accuracy", 100 * score.mean, **near)
    component.compare("out_confidence", 100 * score.half_width, **near)


@checks("fewshot/episodes_*")
def check_episodes(component: Component) -> None:
    counts = component["in_videos_per_class"]
    way, shot = int(component.number(r"way (\d+)")), int(component.number(r"shot (\d+)"))
    queries = int(component.number(r"queries/class (\d+)"))
    labels, seed = np.repeat(np.arange(len(counts)), counts), int(component["in_seed"][0])
    sampler = EpisodeSampler(labels, np.arange(counts.sum()), way, shot, queries, seed, variant="released")
    for match in component.outputs(r"e(?P<number>\d+)_(?P<what>\w+)"):
        episode = sampler.released(int(match["number"]))
        grouped = sampler.episode(int(match["number"]))
        assert set(grouped.support.ravel().tolist()) == set(episode.support)
        ours = {
            "support_video": episode.support,
            "support_labels": episode.support_labels,
            "query_video": episode.queries,
            "query_labels": episode.query_labels,
            "real_query_labels": np.array(episode.classes)[episode.query_labels],
            "classes": episode.classes,
        }
        component.compare(match[0], ours[match["what"]])


@checks("fewshot/frame_indices_*")
def check_frames(component: Component) -> None:
    frames = component["out_idx"].shape[1]
    trim = "linspace(1,n-2" in component.text
    ours = [spanning_indices(int(length), frames, trim=trim)[0] for length in component["in_n_frames"]]
    component.compare("out_idx", np.stack(ours))
