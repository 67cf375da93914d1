"""Checks of the few-shot heads: TRX, OTAM, Euclidean baselines, STRM's parts, encodings of position.

Support clips come in any order; they are put class by class, classes ascending, as the published columns are.
"""

from __future__ import annotations

from collections.abc import Callable

import fill
import numpy as np
import torch
from components import Component, checks
from torch import Tensor, nn
from torch.nn import functional

from vidistill.models.episode_heads import EpisodeHead, Projected, build_episode_head
from vidistill.models.import_ import prefix_map, rename
from vidistill.models.otam import alignment, frame_distances
from vidistill.models.positions import SinusoidalPositions, TrainablePositions
from vidistill.models.published import Prefixes
from vidistill.models.published_heads import (
    attention_prefixes,
    distance_prefixes,
    head_prefixes,
    mixer_prefixes,
    positions_prefixes,
    tuple_attention_prefixes,
)
from vidistill.models.strm import FrameMixer, PatchAttention, TupleDistance
from vidistill.models.trx import Trx

Shapes = dict[str, list[int]]


def load(module: nn.Module, shapes: Shapes, prefixes: Prefixes) -> None:
    """Fill `module` with the published weights, through the key map; every published key must have a place."""
    state = {key: torch.from_numpy(np.asarray(fill.value(key, tuple(shape)))) for key, shape in shapes.items()}
    module.load_state_dict(rename(state, prefix_map(prefixes)))
    module.eval()


def clips(component: Component, key: str, count: int) -> Tensor:
    """Frames (count, L, D) of an array that may be flattened over clips and frames."""
    frames = torch.from_numpy(component[key])
    return frames.reshape(count, -1, frames.shape[-1])


def sides(component: Component, stream: str = "") -> tuple[Tensor, Tensor]:
    """Frames (way x shot, L, D) as given and (Q, L, D) of a stream."""
    support = clips(component, f"in_support{stream}", len(component["in_support_labels"]))
    queries = torch.from_numpy(component[f"in_query{stream}"])
    return support, queries.reshape(-1, *support.shape[1:])


def by_class(component: Component) -> Tensor:
    """Positions (1, way, shot) of the support clips, class by class."""
    labels = torch.from_numpy(component["in_support_labels"])
    return labels.argsort(stable=True).reshape(1, len(labels.unique()), -1)


def projected(component: Component, head: EpisodeHead, stream: str = "") -> tuple[Projected, Projected]:
    """Both sides of the episode as `compare` takes them."""
    support, queries = sides(component, stream)
    index = by_class(component)
    return tuple(part[index] for part in head.project(support)), tuple(part[None] for part in head.project(queries))


def scores(component: Component, head: EpisodeHead, stream: str = "") -> Tensor:
    """Logits (Q, way), which come out the same whether clips are projected apart or the episode goes in whole."""
    with torch.no_grad():
        apart = head.compare(*projected(component, head, stream))[0]
        support, queries = sides(component, stream)
        asked = torch.arange(len(queries))[None] + len(support)
        whole = head(torch.cat([support, queries]), by_class(component), asked)[0]
    torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-4)
    return apart


def trx(component: Component, shapes: Shapes, stream: str = "") -> Trx:
    """TRX of the sizes that the published shapes have, filled with them."""
    _, length, width = sides(component, stream)[0].shape
    keys = {key: shape for key, shape in shapes.items() if key.endswith("k_linear.weight")}
    options = {
        "cardinalities": [shape[1] // width for shape in keys.values()],
        "projection": next(iter(keys.values()))[0],
    }
    head = build_episode_head("trx", length, width, options)
    assert isinstance(head, Trx)
    alone = "k_linear.weight" in keys
    load(head, shapes, tuple_attention_prefixes("", "branches.0.") if alone else head_prefixes(head, ""))
    return head


def part(component: Component, *beginnings: str) -> Shapes:
    """The published shapes under some prefixes."""
    return {key: shape for key, shape in component.meta["state"].items() if key.startswith(beginnings)}


def support_distances(component: Component, stream: str) -> Tensor:
    """Minus the squared distance of class means to each other, over the frames, (way, way - 1), in the given order."""
    support, _ = sides(component, stream)
    _, way, shot = by_class(component).shape
    means = support.unflatten(0, (way, shot)).mean(1)
    distances = -(means[:, None] - means[None]).square().sum((-2, -1)) / support.shape[1]
    return distances[~torch.eye(way, dtype=torch.bool)].reshape(way, way - 1)


@checks("fewshot/trx_*")
def check_trx(component: Component) -> None:
    head = trx(component, component.meta["state"])
    full = component.meta.get("state_full_size")
    if full:
        length = sides(component)[0].shape[1]
        width, (wide, inputs) = full["pe.pe"][-1], full["k_linear.weight"]
        with torch.device("meta"):
            big = Trx(length, width, (inputs // width,), wide)
        unused = sum(np.prod(shape) for key, shape in full.items() if key.startswith("norm_v"))
        count = sum(parameter.numel() for parameter in big.parameters()) + unused
        assert count == component.meta.get("params_full_size", count)
    ours = scores(component, head)
    component.compare("out_logits", ours[None] if component["out_logits"].ndim == 3 else ours)


def euclidean(component: Component, stream: str = "") -> EpisodeHead:
    _, length, width = sides(component, stream)[0].shape
    return build_episode_head("prototype", length, width, {"distance": "mean_of_distances"})


@checks("fewshot/baseline_euclidean*", "fewshot/classifier_cos*")
def check_euclidean(component: Component) -> None:
    component.compare("out_logits", scores(component, euclidean(component)))


STREAMS = {"kl": "1", "ce": "2", "fc_1": "1", "fc_2": "2"}
"""The stream of a two-headed classifier that an output is computed on; `sup` is the labelled stream's, the second."""


def compare_streams(component: Component, make: Callable[[str], EpisodeHead]) -> None:
    """Every output of a classifier that applies one head to one or two streams."""
    two = "in_support1" in component
    for match in component.outputs():
        name = match[0].removeprefix("out_")
        if name == "sup":
            component.compare(match[0], support_distances(component, "2" if two else ""))
        elif name == "support_set":
            head = make("")
            assert isinstance(head, Trx)
            with torch.no_grad():
                (prototypes,) = head.prototypes(*projected(component, head))
            directions = functional.normalize(prototypes[0].transpose(0, 1).flatten(2), dim=-1)  # (Q, way, …)
            component.compare(match[0], directions @ directions.transpose(1, 2))
        else:
            stream = STREAMS[name] if two else ""
            component.compare(match[0], scores(component, make(stream), stream))


@checks("fewshot/classifier_e_dist*")
def check_euclidean_streams(component: Component) -> None:
    compare_streams(component, lambda stream: euclidean(component, stream))


@checks("fewshot/classifier_TRX*")
def check_trx_streams(component: Component) -> None:
    compare_streams(component, lambda stream: trx(component, component.meta["state"], stream))


@checks("fewshot/classifier_strm*")
def check_strm_streams(component: Component) -> None:
    component.compare("out_pat", scores(component, tuple_distance(component, part(component, "Dist"), "1"), "1"))
    component.compare("out_fr", scores(component, trx(component, part(component, "transformers."), "2"), "2"))


def tuple_distance(component: Component, shapes: Shapes, stream: str = "") -> TupleDistance:
    _, length, width = sides(component, stream)[0].shape
    cardinalities = tuple(shape[1] // width for key, shape in shapes.items() if key.endswith("clsW.weight"))
    head = TupleDistance(length, width, cardinalities)
    load(head, shapes, distance_prefixes("", ""))
    return head


@checks("fewshot/strm_distance*")
def check_tuple_distance(component: Component) -> None:
    component.compare("out_logits", scores(component, tuple_distance(component, component.meta["state"])))


@checks("fewshot/strm_frame_mixer*")
def check_frame_mixer(component: Component) -> None:
    x = torch.from_numpy(component["in_x"])
    mixer = FrameMixer(x.shape[2], x.shape[1])
    load(mixer, component.meta["state"], mixer_prefixes("", ""))
    component.compare("out_y", mixer(x))


@checks("fewshot/strm_patch_attention*")
def check_patch_attention(component: Component) -> None:
    x = torch.from_numpy(component["in_x"])
    attention = PatchAttention(x.shape[2], x.shape[1])
    load(attention, component.meta["state"], attention_prefixes("", ""))
    component.compare("out_y", attention(x))
    maps = x.transpose(1, 2).unflatten(2, (-1, int(x.shape[1] ** 0.5)))
    component.compare("out_y", attention(maps).flatten(2).transpose(1, 2))


@checks("fewshot/strm_head*")
def check_strm_head(component: Component) -> None:
    state = component.meta["state"]
    width = component["in_support"].shape[1]
    length = state["fr_enrich.Tok_MLP.inp_fc.weight"][0]
    side = int(component.number(r"max pool to (\d+)x", 4))
    attention = PatchAttention(width, side * side)
    load(attention, part(component, "attn_pat."), attention_prefixes("attn_pat.", ""))
    keys = {key: shape for key, shape in state.items() if key.endswith("k_linear.weight")}
    cardinalities = [shape[1] // width for shape in keys.values()]
    options = {"cardinalities": cardinalities, "projection": next(iter(keys.values()))[0]}
    head = build_episode_head("strm", length, width, options)
    load(head, {key: shape for key, shape in state.items() if not key.startswith("attn_pat.")}, head_prefixes(head, ""))

    def frames(key: str) -> Tensor:
        maps = functional.adaptive_max_pool2d(torch.from_numpy(component[key]), side)
        return attention(maps).mean((2, 3)).unflatten(0, (-1, length))

    with torch.no_grad():
        support, queries = head.project(frames("in_support")), head.project(frames("in_query"))
        support = tuple(part[by_class(component)] for part in support)
        queries = tuple(part[None] for part in queries)
        alike = head.trx.compare(support[: head.kept], queries[: head.kept])
        near = head.distance.compare(support[head.kept :], queries[head.kept :])
        both = head.compare(support, queries)
    component.compare("out_logits", alike)
    component.compare("out_logits_post_pat", near)
    torch.testing.assert_close(both, alike + 0.1 * near)


@checks("fewshot/otam*")
def check_otam(component: Component) -> None:
    support, queries = sides(component)
    smoothing = component.number(r"lambda ?= ?(\d*\.?\d+)", 0.1)
    options = {"smoothing": smoothing, "variant": "released"}
    head = build_episode_head("otam", *support.shape[1:], options)
    asked, known = (tuple(part[None] for part in head.project(frames)) for frames in (queries, support))
    distances = frame_distances(asked, known)[0]
    ours = {
        "frame_dist": distances,
        "cum_qs": alignment(distances, smoothing),
        "cum_sq": alignment(distances.transpose(-1, -2), smoothing),
        "probs": scores(component, head),
    }
    for match in component.outputs():
        component.compare(match[0], ours[match[0].removeprefix("out_")])
    plain = build_episode_head("otam", *support.shape[1:], {"smoothing": smoothing})
    component.compare("out_probs", scores(component, plain).softmax(-1))


@checks("fewshot/positional_encoding*")
def check_positions(component: Component) -> None:
    x = torch.from_numpy(component["in_x"])
    _, length, width = component["out_pe"].shape
    positions = SinusoidalPositions(length, width, component.number(r"scale (\d*\.?\d+)", 0.1)).eval()
    component.compare("out_pe", positions.table[None])
    component.compare("out_y", positions(x))


@checks("fewshot/trainable_positional_encoding*")
def check_trainable_positions(component: Component) -> None:
    x = torch.from_numpy(component["in_x"])
    state = component.meta["state"]
    positions = TrainablePositions(*state["position_embeddings.weight"])
    load(positions, state, positions_prefixes("", ""))
    component.compare("out_y", positions(x))
