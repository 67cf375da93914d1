"""Deterministic weights for parity checks: the same state-dict keys and shapes give the same values anywhere.

A reference model (the published code of a method) and this project's model are both filled from the
*reference* state-dict keys, so that no weight file needs to be stored or shared.
"""

import zlib

import numpy as np


def value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of one state-dict entry, float32 (or int64 zero for BatchNorm's step counter)."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if len(shape) <= 1:  # norm weights and biases
        if leaf == "weight":
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def fill_torch(module) -> dict:
    """Fill a torch module in place; returns {key: shape} of what was filled. Integer index buffers are left alone."""
    import torch

    state = module.state_dict()
    new, shapes = {}, {}
    for key, tensor in state.items():
        if tensor.is_floating_point() or key.endswith("num_batches_tracked"):
            new[key] = (
                torch.from_numpy(np.asarray(value(key, tuple(tensor.shape)))).to(tensor.dtype).reshape(tensor.shape)
            )
        else:
            new[key] = tensor
        shapes[key] = list(tensor.shape)
    module.load_state_dict(new)
    return shapes
