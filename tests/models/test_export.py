"""Networks leave Python: ONNX with any batch size, and torch.compile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidistill.models import build_network

SHAPES = {"compact3d": (3, 8, 28, 36), "gru": (8, 15), "graph_conv": (3, 8, 15), "mobilenet_v3_small": (2, 4, 32, 32)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHAPES)
def test_onnx_gives_the_same_logits_for_any_batch(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    options = {"temporal": "conv"} if name.startswith("mobilenet") else {}
    network = build_network(name, SHAPES[name], {"verb": 3, "noun": 2}, options).eval()
    x = torch.randn(3, *SHAPES[name])
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        network, (x,), dynamo=True, dynamic_shapes={"x": {0: batch}}, input_names=["x"], verbose=False
    )
    program.save(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        with torch.no_grad():
            outputs = network(x[:count])
        verb, noun, embedding = session.run(None, {session.get_inputs()[0].name: x[:count].numpy()})
        np.testing.assert_allclose(verb, outputs.logits["verb"], atol=1e-5)
        np.testing.assert_allclose(noun, outputs.logits["noun"], atol=1e-5)
        np.testing.assert_allclose(embedding, outputs.embedding, atol=1e-5)


@pytest.mark.parametrize("name", ["compact3d", "graph_conv"])
def test_compiled_networks_are_one_graph_and_give_the_same_outputs(name: str) -> None:
    network = build_network(name, SHAPES[name], {"verb": 3}).eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, *SHAPES[name])
    with torch.no_grad():
        one, other = network(x, features=("stage2",)), compiled(x, features=("stage2",))
    torch.testing.assert_close(one.logits["verb"], other.logits["verb"])
    torch.testing.assert_close(one.features["stage2"], other.features["stage2"])
