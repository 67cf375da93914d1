"""The registry of networks, apart from the package so that each architecture's file can import it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vidistill.core.registry import Registry
from vidistill.models.base import Network

NetworkBuilder = Callable[..., Network]
"""`(input_shape, classes, **options) -> Network`; the options are the builder's remaining parameters."""

TORCHVISION = "torchvision:"


class NetworkRegistry(Registry[NetworkBuilder]):
    """Networks by name, and `torchvision:<name>` for every image network of torchvision."""

    def get(self, name: str, where: str | None = None) -> NetworkBuilder:
        """The builder of network `name`.

        Raises:
            RecipeError: no such network; the nearest known name is given.
        """
        if name.startswith(TORCHVISION) and name not in self._parts:
            from vidistill.models import image_trunks

            return partial(image_trunks.build_trunk, image_trunks.checked_name(name, where))
        return super().get(name, where)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and name.startswith(TORCHVISION):
            from vidistill.models import image_trunks

            return name.removeprefix(TORCHVISION) in image_trunks.available()
        return super().__contains__(name)


NETWORKS = NetworkRegistry("network")
