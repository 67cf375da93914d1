"""The 24 losses of Lite-MKD's code as settings of one method and of the task's label weights.

Names are the published code's. With C a stream's label loss (mean over queries), K kd of queries, Pk their correlation
loss, P and Ks the same of the support: `fc_2_sup_dist`, the paper's, is K + 0.5 P + C. Label losses belong to the task
`fewshot`, which adds them up with the weights of `labels`, a head each. `released` gives the weights as published,
where every label loss is divided by 16, the number of episodes that a step accumulates, and the other terms are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vidistill.methods.litemkd import DISTILLED, EPISODE, PATCHES

ACCUMULATED = 16
"""Episodes that the published code accumulates before a step."""


@dataclass(frozen=True)
class Distiller:
    """One published loss.

    Attributes:
        streams: frame vectors that the student must have, 1 or 2.
        options: of the method `litemkd`.
        labels: weight of each head's label loss; the task adds them up (it does not average over heads).
    """

    streams: int
    options: Mapping[str, Any]
    labels: Mapping[str, float] = field(default_factory=lambda: {EPISODE: 1.0})

    def released(self) -> Distiller:
        """The same with the published weights and one focal weight a batch."""
        options = {**self.options, "variant": "released"}
        if options.get("focal") == "balance":
            options["label_weight"] = 1.0 / ACCUMULATED
            if options["support"] == "kd":  # fc_2_sup divides this term too
                options["support_weight"] = options["support_weight"] / ACCUMULATED
        return replace(self, options=options, labels={h: w / ACCUMULATED for h, w in self.labels.items()})


_NO_SUPPORT: dict[str, Any] = {"support": "none"}
_PLAIN: dict[str, Any] = {"query_weight": 2.0, **_NO_SUPPORT}
_SUPPORT_KD: dict[str, Any] = {"support": "kd", "support_weight": 0.5}
_BOTH = {EPISODE: 1.0, DISTILLED: 1.0}
_PATCHED = {EPISODE: 1.0, PATCHES: 0.1}

DISTILLERS: dict[str, Distiller] = {
    "fc_2_sup_dist": Distiller(2, {}),
    "fc_2_sup_kl": Distiller(2, _SUPPORT_KD),
    "fc_2_sup": Distiller(2, {"support": "kd", "support_weight": 0.1, "focal": "balance", "focal_base": 1.0}),
    "fc_2_sup_dist_cece": Distiller(2, {}, _BOTH),
    "fc_2_sup_klklcece": Distiller(2, _SUPPORT_KD, _BOTH),
    "fc_2_sup_distdistcece": Distiller(2, {"query": "pearson"}, _BOTH),
    "fc_2_sup_2": Distiller(2, {"support_streams": ("labelled", "distilled"), "support_weight": 1.0}),
    "fc_2_sup_disver": Distiller(2, {"query": "pearson", **_SUPPORT_KD}, _BOTH),
    "fc_2_sup_dist_wsl": Distiller(2, {"support": "pearson", "focal": "balance", "focal_base": 0.5}),
    "fc_1_sup": Distiller(1, {}),
    "e_dist_1fc_sup": Distiller(1, {}),  # the same loss over prototypes instead of TRX
    "fc_sup": Distiller(1, {"query": "none"}),
    "KD": Distiller(1, _PLAIN),
    "ce": Distiller(1, {"query": "none", **_NO_SUPPORT}),
    "Dist_KD": Distiller(1, {"query": "pearson", **_PLAIN}),
    "wsl": Distiller(1, {"focal": "wsl", **_PLAIN}),
    "fc_2": Distiller(2, _PLAIN),
    "fc_2_wsl": Distiller(2, {"focal": "balance", "focal_base": 1.0, **_NO_SUPPORT}),
    "strm": Distiller(1, {"query": "none", **_NO_SUPPORT}, _PATCHED),
    "strm_KD": Distiller(1, _PLAIN, _PATCHED),
    "strm_fc_2_sup_dist": Distiller(2, {"patch_weight": 0.1}, _PATCHED),
    "strm_1fc_sup": Distiller(1, {"patch_weight": 0.1}, _PATCHED),
    "support_sim": Distiller(1, {"support": "similarities", "support_weight": 1.0}),
    "KL_feature": Distiller(1, {"feature_weight": 1.0, **_PLAIN}),
}
