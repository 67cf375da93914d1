"""The names a recipe can use, read from the registries."""

from __future__ import annotations

from typing import Any

from vidistill.core.registry import Registry
from vidistill.curricula import CURRICULA
from vidistill.data.formats import FORMATS
from vidistill.methods import METHODS
from vidistill.modalities import MODALITIES
from vidistill.models import NETWORKS
from vidistill.tasks import TASKS


def registries() -> dict[str, list[str]]:
    """Names by kind of part."""
    parts: dict[str, Registry[Any]] = {
        "formats": FORMATS,
        "modalities": MODALITIES,
        "networks": NETWORKS,
        "methods": METHODS,
        "curricula": CURRICULA,
        "tasks": TASKS,
    }
    return {kind: registry.names() for kind, registry in parts.items()}
