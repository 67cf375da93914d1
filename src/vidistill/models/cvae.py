"""A conditional variational autoencoder of a feature map, conditioned on its channel-time attention.

Source: Generative Model-based Feature Knowledge Distillation, AAAI 2024, arXiv 2312.08644. The encoder shrinks each
time step's frame to C numbers, joins them with the attention A of that step and gives mean and log variance of C
latent numbers; the decoder makes the map again from latent and attention. The prior of the latent is N(A, 1).

Time steps are encoded one by one, but group normalisation sees all of a clip: any number of steps can be taken, and
one size of frame. The last layer is a ReLU: what is reconstructed is a map after one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidistill.core.errors import ModelError
from vidistill.models.attention import as_map, group_norm


class Encoder(nn.Module):
    """Mean and log variance (B, T, C) of a map's latent, given its attention."""

    def __init__(self, channels: int, pixels: tuple[int, int], hidden: int) -> None:
        super().__init__()
        self.con = nn.Sequential(nn.Conv3d(channels, hidden, (1, *pixels)), group_norm(hidden), nn.ReLU())
        self.fc1 = nn.Linear(hidden + channels, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 2 * channels)

    def forward(self, feature: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Of a map (B, C, T, H, W) and its attention (B, C, T)."""
        condition = attention.transpose(1, 2)
        seen = self.con(feature).flatten(2).transpose(1, 2)
        x = functional.relu(self.fc1(torch.cat([seen, condition.to(seen.dtype)], dim=2)))
        mean, log_variance = self.fc3(functional.relu(self.fc2(x))).chunk(2, dim=2)
        return mean, log_variance


class Decoder(nn.Module):
    """A map (B, C, T, H, W) of a latent (B, T, C) and the attention (B, C, T)."""

    def __init__(self, channels: int, pixels: tuple[int, int], hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * channels, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, hidden)
        self.deconv = nn.Sequential(nn.ConvTranspose3d(hidden, channels, (1, *pixels)), group_norm(channels), nn.ReLU())

    def forward(self, latent: Tensor, attention: Tensor) -> Tensor:
        """The map."""
        condition = attention.transpose(1, 2)
        x = functional.relu(self.fc1(torch.cat([latent, condition.to(latent.dtype)], dim=2)))
        x = self.fc3(functional.relu(self.fc2(x))).transpose(1, 2)
        feature: Tensor = self.deconv(x[..., None, None])
        return feature


class FeatureCVAE(nn.Module):
    """Encoder and decoder of maps of C channels and (H, W) pixels.

    Args:
        channels: C.
        pixels: (H, W), the size of the kernels.
        hidden: width of all layers in between; None: C, as published (7 C^2 + 2 H W C^2 weights and a few more).
            The latent has C numbers a step whatever it is, because the attention is its prior mean.
    """

    def __init__(self, channels: int, pixels: tuple[int, int], hidden: int | None = None) -> None:
        super().__init__()
        self.channels, self.pixels = channels, pixels
        hidden = channels if hidden is None else hidden
        self.encoder = Encoder(channels, pixels, hidden)
        self.decoder = Decoder(channels, pixels, hidden)

    def forward(self, feature: Tensor, attention: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            feature: a map (B, C, T, H, W).
            attention: its attention (B, C, T).
            noise: (B, T, C), standard normal.

        Returns:
            The reconstruction (B, C, T, H, W), and mean and log variance of the latent (B, T, C).

        Raises:
            ModelError: other channels or pixels than this CVAE is made for.
        """
        feature = as_map(feature)
        if feature.shape[1] != self.channels or tuple(feature.shape[3:]) != self.pixels:
            raise ModelError(
                f"this CVAE is for maps of {self.channels} channels and {self.pixels} pixels, not of "
                f"{feature.shape[1]} and {tuple(feature.shape[3:])}"
            )
        mean, log_variance = self.encoder(feature, attention)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        return self.decoder(latent, attention), mean, log_variance

    def inference(self, attention: Tensor, noise: Tensor) -> Tensor:
        """A map (B, C, T, H, W) from a sample of the prior N(A, 1); `attention` (B, C, T), `noise` (B, T, C)."""
        feature: Tensor = self.decoder(attention.transpose(1, 2) + noise, attention)
        return feature


def cvae_prefixes(level: str = "5c", ours: str = "") -> dict[str, str | None]:
    """Prefixes of a published CVAE, which has a branch a level -> those of a `FeatureCVAE`; for `prefix_map`.

    Args:
        level: "5c" or "4f", the map that the branch is of; the other branch is dropped.
        ours: where our CVAE is, e.g. "cvae.of_mixed_5c.".

    Raises:
        ModelError: another level.
    """
    branches = {"5c": ("cencoder.", "cdecoder.", "con1."), "4f": ("cencoder_832.", "cdecoder_832.", "con2.")}
    if level not in branches:
        raise ModelError(f"the published CVAE has no branch {level!r}", todo="Known: 5c, 4f.")
    encoder, decoder, con = branches[level]
    dropped = {prefix: None for names in branches.values() for prefix in names[:2]}
    kept = {f"{encoder}{con}": f"{ours}encoder.con.", encoder: f"{ours}encoder.", decoder: f"{ours}decoder."}
    return {**dropped, **kept}
