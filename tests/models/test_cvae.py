from __future__ import annotations

import pytest
import torch

from vidistill.core.errors import ModelError
from vidistill.models.cvae import FeatureCVAE, cvae_prefixes
from vidistill.models.import_ import prefix_map

BATCH, CHANNELS, STEPS, PIXELS = 2, 6, 4, (3, 2)


def case(steps: int = STEPS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    feature = torch.rand(BATCH, CHANNELS, steps, *PIXELS, generator=random)
    attention = torch.rand(BATCH, CHANNELS, steps, generator=random)
    return feature, attention, torch.randn(BATCH, steps, CHANNELS, generator=random)


@pytest.mark.parametrize("hidden", [None, 1, 8])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_map_of_any_length_comes_back_in_its_shape(hidden: int | None, steps: int) -> None:
    feature, attention, noise = case(steps)
    cvae = FeatureCVAE(CHANNELS, PIXELS, hidden)
    made, mean, log_variance = cvae(feature, attention, noise)
    assert made.shape == feature.shape == cvae.inference(attention, noise).shape
    assert mean.shape == log_variance.shape == (BATCH, steps, CHANNELS)
    assert (made >= 0).all()


def test_the_latent_is_the_mean_and_the_noise_of_the_variance() -> None:
    feature, attention, noise = case()
    cvae = FeatureCVAE(CHANNELS, PIXELS)
    made, mean, log_variance = cvae(feature, attention, noise)
    latent = mean + noise * log_variance.exp().sqrt()
    torch.testing.assert_close(made, cvae.decoder(latent, attention))
    # The prior's mean is the attention: noise less that much gives the same sample.
    prior = cvae.inference(attention, latent - attention.transpose(1, 2))
    torch.testing.assert_close(prior, made)


def test_without_noise_the_same_clip_gives_the_same_map_whatever_else_is_in_the_batch() -> None:
    feature, attention, noise = case()
    cvae = FeatureCVAE(CHANNELS, PIXELS)
    torch.testing.assert_close(
        cvae(feature, attention, noise)[0][1:], cvae(feature[1:], attention[1:], noise[1:])[0], rtol=1e-4, atol=1e-5
    )


def test_the_published_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in FeatureCVAE(1024, (7, 7)).parameters())
    assert round(count / 1e6, 1) == 112.2


def test_a_narrow_one_is_small() -> None:
    count = {h: sum(p.numel() for p in FeatureCVAE(128, (7, 7), h).parameters()) for h in (None, 16)}
    assert count[16] < count[None] / 7


def test_another_map_is_refused() -> None:
    _, attention, noise = case()
    with pytest.raises(ModelError, match=r"maps of 6 channels and \(3, 2\) pixels, not of 6 and \(2, 3\)"):
        FeatureCVAE(CHANNELS, PIXELS)(torch.zeros(BATCH, CHANNELS, STEPS, 2, 3), attention, noise)


def test_published_keys_of_one_branch_are_ours() -> None:
    ours = set(FeatureCVAE(CHANNELS, PIXELS).state_dict())
    for level, encoder, decoder, con in (
        ("5c", "cencoder.", "cdecoder.", "con1"),
        ("4f", "cencoder_832.", "cdecoder_832.", "con2"),
    ):
        keys = prefix_map(cvae_prefixes(level))
        found = {keys(f"{encoder}{con}.{number}.{kind}") for number in (0, 1) for kind in ("weight", "bias")}
        found |= {keys(f"{encoder}fc{number}.{kind}") for number in (1, 2, 3) for kind in ("weight", "bias")}
        found |= {keys(f"{decoder}fc{number}.{kind}") for number in (1, 2, 3) for kind in ("weight", "bias")}
        found |= {keys(f"{decoder}deconv.{number}.{kind}") for number in (0, 1) for kind in ("weight", "bias")}
        assert found == ours
    assert prefix_map(cvae_prefixes("4f"))("cencoder.fc1.weight") is None
    with pytest.raises(ModelError, match="no branch '3c'"):
        cvae_prefixes("3c")
