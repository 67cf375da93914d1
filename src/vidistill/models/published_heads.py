"""Key maps of the published episode heads and enrichments (TRX, STRM, Lite-MKD): published prefixes -> ours.

Sinusoidal tables (`pe.pe`) are dropped: ours are made from their sizes. So is `norm_v`, which nothing uses. All
functions take where the part lies in the published state dict and in ours, both with the dot at the end, or "".
"""

from __future__ import annotations

from vidistill.models.episode_heads import EpisodeHead
from vidistill.models.published import Prefixes
from vidistill.models.score_fusion import ScoreHead
from vidistill.models.strm import Strm
from vidistill.models.trx import Trx

PLACES = ("", "classifier.", "bracnch.")
"""Where an episode head lies in a branch alone, in a student, and (so spelt) in a teacher or fusion."""

BRANCHES = ("m1_branch.", "skeleton_branch.", "flow_branch.")
"""Where the published score fusion keeps the heads of its first, second and third modality."""

MOST = 8
"""Cardinalities that a map has room for."""


def head_prefixes(head: EpisodeHead, ours: str = "head.") -> Prefixes:
    """Those of an episode head in students, teachers and fusions; none for heads without published parameters."""
    prefixes: Prefixes = {}
    if isinstance(head, ScoreHead):
        for number, branch in enumerate(BRANCHES):
            prefixes |= trx_prefixes(branch, f"{ours}heads.{number}.")
    for place in PLACES:
        if isinstance(head, Trx):
            prefixes |= trx_prefixes(place, ours)
        elif isinstance(head, Strm):
            prefixes |= trx_prefixes(place, f"{ours}trx.")
            prefixes |= distance_prefixes(place, f"{ours}distance.")
            prefixes |= mixer_prefixes(f"{place}fr_enrich.", f"{ours}mixer.")
    return prefixes


def trx_prefixes(published: str, ours: str) -> Prefixes:
    """Those of `Trx`. The student's TRX, of one cardinality only, does not number it."""
    prefixes = tuple_attention_prefixes(f"{published}transformers.", f"{ours}branches.0.")
    for number in range(MOST):
        prefixes |= tuple_attention_prefixes(f"{published}transformers.{number}.", f"{ours}branches.{number}.")
    return prefixes


def tuple_attention_prefixes(published: str, ours: str) -> Prefixes:
    """Those of `TupleAttention`, one cardinality of TRX."""
    return {
        f"{published}pe.": None,
        f"{published}k_linear.": f"{ours}key.",
        f"{published}v_linear.": f"{ours}value.",
        f"{published}norm_k.": f"{ours}key_normalisation.",
        f"{published}norm_v.": None,
    }


def distance_prefixes(published: str, ours: str) -> Prefixes:
    """Those of `TupleDistance`: a teacher's by number, where it was saved at all, a student's, or one alone."""
    prefixes: Prefixes = {f"{published}{place}clsW.": f"{ours}branches.0.linear." for place in ("DistanceLoss.", "")}
    for number in range(MOST):
        prefixes[f"{published}new_dist_loss_post_pat.{number}.clsW."] = f"{ours}branches.{number}.linear."
    return prefixes


def mixer_prefixes(published: str, ours: str) -> Prefixes:
    """Those of `FrameMixer`."""
    return {
        f"{published}pe.": None,
        f"{published}Tok_MLP.inp_fc.": f"{ours}over_time.0.",
        f"{published}Tok_MLP.out_fc.": f"{ours}over_time.2.",
        f"{published}Bot_MLP.inp_fc.": f"{ours}over_features.0.",
        f"{published}Bot_MLP.out_fc.": f"{ours}over_features.2.",
    }


def attention_prefixes(published: str, ours: str) -> Prefixes:
    """Those of `PatchAttention`."""
    return {
        f"{published}pe.": None,
        f"{published}gamma": f"{ours}gamma",
        f"{published}query_proj.": f"{ours}query.",
        f"{published}key_proj.": f"{ours}key.",
        f"{published}value_conv.": f"{ours}value.",
        f"{published}Bot_MLP.inp_fc.": f"{ours}mlp.0.",
        f"{published}Bot_MLP.hid_fc.": f"{ours}mlp.2.",
        f"{published}Bot_MLP.out_fc.": f"{ours}mlp.4.",
    }


def positions_prefixes(published: str, ours: str) -> Prefixes:
    """Those of `TrainablePositions`."""
    return {f"{published}position_embeddings.": f"{ours}embedding.", f"{published}LayerNorm.": f"{ours}normalisation."}
