"""Methods: how a student learns from teachers. One file a method; importing this package registers all of them."""

from __future__ import annotations

from vidistill.methods import combined, crosskd, ctkd, cvae, dist, dkd, feature_mse, generative, graph, kd, litemkd, rkd
from vidistill.methods.base import METHODS, Method, MethodContext, build_method

__all__ = [
    "METHODS",
    "Method",
    "MethodContext",
    "build_method",
    "combined",
    "crosskd",
    "ctkd",
    "cvae",
    "dist",
    "dkd",
    "feature_mse",
    "generative",
    "graph",
    "kd",
    "litemkd",
    "rkd",
]
