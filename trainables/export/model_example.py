"""Classifies photos with the model in this folder: python example.py PHOTO...

It needs numpy and Pillow, and either torch or onnxruntime with model.onnx.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "code"))

import numpy as np  # noqa: E402

from contract.model_answers import answer, needs_scores  # noqa: E402
from contract.model_card import ModelCard  # noqa: E402
from contract.model_layout import ModelPaths  # noqa: E402

model = ModelPaths(HERE)
card = ModelCard.load(model)
images = np.stack([card.read_image(Path(name)) for name in sys.argv[1:]])
scores = None
try:
    import torch
except ImportError:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"images": images})
    if needs_scores(card):
        scorer = onnxruntime.InferenceSession(model.unknown_onnx, providers=["CPUExecutionProvider"])
        (scores,) = scorer.run(None, {"images": images, "probabilities": probabilities})
else:
    with torch.inference_mode():
        batch = torch.from_numpy(images)
        probabilities = torch.export.load(model.program).module()(batch)
        if needs_scores(card):
            scores = torch.export.load(model.unknown).module()(batch, probabilities).numpy()
        probabilities = probabilities.numpy()
for name, found in zip(sys.argv[1:], answer(card, probabilities, scores), strict=True):
    unknown = "" if found.known in (True, None) else "  (looks like none of the classes)"
    print(f"{found.label}  {found.probability:.4f}  {name}{unknown}")
