"""Writes a finished trial's classifier as files that run without this project."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contract.files import to_json
from contract.messages import StudySettings
from contract.study_layout import ModelPaths, TrialPaths
from contract.trial_config import make_trial_config
from trainables.data.views import storage_size
from trainables.export.parity import check_predictions
from trainables.model.backbones import find_backbone, num_features
from trainables.model.classifier import Classifier
from trainables.model.networks import make_backbone
from trainables.model.weights import choose_weights, load_weights
from trainables.training.checkpoints import load_state
from trainables.training.regimes import load_regime

TOLERANCE = 1e-4
"""Largest difference of a probability between the exported program and the classifier it came from."""


class Probabilities(nn.Module):
    """The whole classifier as one module: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.normalise, self.backbone, self.head = classifier.normalise, classifier.backbone, classifier.head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(self.normalise(images)))
        return logits.softmax(dim=1)


def load_classifier(paths: TrialPaths, config: Mapping[str, Any], settings: StudySettings) -> Classifier:
    """The classifier of a finished trial, as its kept epoch left it, in eval mode on the CPU.

    Raises:
        ValueError: the trial's weights are gone or do not fit.
    """
    trial = make_trial_config(config)
    state = load_state(paths.weights)
    if state is None:
        raise ValueError(f"{paths.weights} is missing or damaged: run the study again")
    backbone = find_backbone(trial.backbone)
    regime = load_regime(trial.regime)
    module = make_backbone(backbone, image_size=settings.image_size, pooling=trial.head_pooling)
    weights = choose_weights(
        backbone,
        settings.backbone_weights,
        settings.weights,
        seed=settings.seed,
        pretrained=regime.pretrained,
    )
    load_weights(module, weights)
    head = regime.make_head(
        trial,
        in_features=num_features(module),
        num_classes=len(settings.classes),
        num_train=state["num_train"],
        seed=0,
    )
    classifier = Classifier(module, head, depth=state["depth"])
    classifier.load_trained_state(state["trained"])
    return classifier.eval()


def export_classifier(
    paths: TrialPaths,
    config: Mapping[str, Any],
    settings: StudySettings,
    *,
    target: ModelPaths,
    about: Mapping[str, Any],
) -> None:
    """Write the program and its card to `target`; `about` goes into the card as it is.

    The program takes float32 images [N, 3, size, size] in [0, 1], N free, and gives probabilities [N, C].
    Before anything is written, it must predict for validation images what the trial predicted for them.

    Raises:
        ValueError: the trial's weights are gone, or the program computes something else than the classifier
            or the trial.
    """
    classifier = load_classifier(paths, config, settings)
    module = Probabilities(classifier).eval()
    size = settings.image_size
    example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(
            module, (example,), dynamic_shapes={"images": {0: torch.export.Dim("images", min=1, max=4096)}}
        )
        difference = float((program.module()(example[:1]) - module(example[:1])).abs().max())
    if difference > TOLERANCE:
        raise ValueError(f"the exported program differs from the classifier by {difference:.1e}")
    trial = make_trial_config(config)
    fit = settings.fit or find_backbone(trial.backbone).fit
    check_predictions(
        program.module(),
        paths,
        trial,
        settings,
        fit=fit,
        uses_neighbours=load_regime(trial.regime).uses_neighbours,
    )
    target.directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
        torch.export.save(program, target.program)
    card = {
        "classes": list(settings.classes),
        "image_size": size,
        "fit": fit,
        "storage_size": storage_size(size, fit),
        "deep_range": list(settings.deep_range),
        "backbone": config["backbone"],
        **about,
    }
    target.card.write_text(to_json(card), encoding="utf-8")
