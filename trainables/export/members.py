"""Loads the trained classifiers that a combination is made of, and says which of them go together."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from contract.answer import MemberRef
from contract.decoding import Fit
from contract.messages import StudySettings
from contract.study_layout import TrialPaths
from contract.trial_config import TrialConfig, make_trial_config
from contract.weights_source import WeightsSource
from trainables.model.backbones import find_backbone, num_features
from trainables.model.classifier import Classifier
from trainables.model.networks import make_backbone
from trainables.model.stages import Depth, trainable_names
from trainables.model.weights import choose_weights, find_licence, load_weights
from trainables.training.checkpoints import load_state
from trainables.training.regimes import load_regime

Configs = Mapping[MemberRef, Mapping[str, Any]]
"""Configuration of each classifier; a view has that of the classifier it is of."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A trained classifier, or a view of it, in eval mode on the CPU."""

    ref: MemberRef
    network: str
    """Backbone, weights and pooling: members of the same network may share what both have frozen."""

    image_size: int
    classifier: Classifier


def classifier_of(ref: MemberRef) -> MemberRef:
    """The classifier that a reference is a view of."""
    return replace(ref, view="")


def config_of(ref: MemberRef, configs: Configs) -> TrialConfig:
    """The configuration of a member, whether `configs` names it or the classifier that it is a view of.

    Raises:
        ValueError: neither is there.
    """
    found = configs.get(ref, configs.get(classifier_of(ref)))
    if found is None:
        raise ValueError(f"{ref.name} has no configuration: it is no candidate of this study")
    return make_trial_config(found)


def fit_of(config: Mapping[str, Any], settings: StudySettings) -> Fit:
    """How images are made square for a configuration."""
    return settings.fit or find_backbone(str(config["backbone"])).fit


def common_fit(refs: Iterable[MemberRef], configs: Configs, settings: StudySettings) -> Fit:
    """The one way of making images square that all members are used to.

    Raises:
        ValueError: they want several, or one of several was trained on blank images.
    """
    members = list(refs)
    fits: dict[Fit, MemberRef] = {}
    for ref in members:
        config = config_of(ref, configs)
        fits.setdefault(settings.fit or find_backbone(config.backbone).fit, ref)
        if config.zero_inputs and len(members) > 1:
            raise ValueError(f"{ref.name} was trained on blank images and cannot be combined with others")
    if len(fits) > 1:
        found = ", ".join(f"{fit} ({ref.name})" for fit, ref in fits.items())
        raise ValueError(
            f"the members want images made square in several ways: {found}; combine those of one, or search "
            "with --fit, which is one for all backbones"
        )
    return next(iter(fits))


def load_members(refs: Sequence[MemberRef], configs: Configs, settings: StudySettings) -> list[Member]:
    """Load the members; those of one network share its pretrained weights where nothing of it trains.

    Raises:
        ValueError: a member's weights are gone or do not fit.
    """
    backbones: dict[str, nn.Module] = {}
    loaded: dict[MemberRef, Member] = {}
    for ref in refs:
        whole = classifier_of(ref)
        if whole not in loaded:
            config = config_of(ref, configs)
            network = network_of(config, settings)
            if network not in backbones:
                backbones[network] = load_pretrained(config, settings)
            classifier = _load(whole.paths(settings.paths), config, settings, backbones[network])
            loaded[whole] = Member(
                ref=whole, network=network, image_size=settings.image_size, classifier=classifier
            )
    return [replace(loaded[classifier_of(ref)], ref=ref) for ref in refs]


def load_classifier(paths: TrialPaths, config: Mapping[str, Any], settings: StudySettings) -> Classifier:
    """The classifier of a finished trial, as its kept epoch left it, in eval mode on the CPU.

    Raises:
        ValueError: the trial's weights are gone or do not fit.
    """
    trial = make_trial_config(config)
    return _load(paths, trial, settings, load_pretrained(trial, settings))


def load_pretrained(config: TrialConfig, settings: StudySettings) -> nn.Module:
    """The backbone of a configuration with the weights that its trials begin with, in eval mode."""
    backbone = find_backbone(config.backbone)
    module = make_backbone(backbone, image_size=settings.image_size, pooling=config.head_pooling)
    load_weights(module, _weights_of(config, settings))
    return module.eval()


def _load(
    paths: TrialPaths, config: TrialConfig, settings: StudySettings, pretrained: nn.Module
) -> Classifier:
    state = load_state(paths.weights)
    if state is None:
        raise ValueError(f"{paths.weights} is missing or damaged: run the study again")
    module = copy_trainable(pretrained, state["depth"])
    head = load_regime(config.regime).make_head(
        config,
        in_features=num_features(module),
        num_classes=len(settings.classes),
        num_train=state["num_train"],
        seed=0,
    )
    classifier = Classifier(module, head, depth=state["depth"])
    classifier.load_trained_state(state["trained"])
    return classifier.eval()


def copy_trainable(pretrained: nn.Module, depth: Depth) -> nn.Module:
    """Copy a backbone, but for the tensors of the modules that are frozen at this depth, which are shared."""
    trainable = trainable_names(pretrained, depth)
    shared: dict[int, Any] = {}
    for path, module in pretrained.named_modules():
        own = dict(module.named_parameters(path, recurse=False))
        shared |= {id(tensor): tensor for name, tensor in own.items() if name not in trainable}
        if own and trainable.isdisjoint(own):
            shared |= {id(tensor): tensor for tensor in module.buffers(recurse=False)}
    return copy.deepcopy(pretrained, shared)


def find_licences(refs: Iterable[MemberRef], configs: Configs, settings: StudySettings) -> dict[str, str]:
    """Licences of the pretrained weights that members began with, by the names of their backbones."""
    members = [config_of(ref, configs) for ref in refs]
    return {config.backbone: find_licence(_weights_of(config, settings)) for config in members}


def _weights_of(config: TrialConfig, settings: StudySettings) -> WeightsSource:
    return choose_weights(
        find_backbone(config.backbone),
        settings.backbone_weights,
        settings.weights,
        seed=settings.seed,
        pretrained=load_regime(config.regime).pretrained,
    )


def network_of(config: TrialConfig, settings: StudySettings) -> str:
    """Name the pretrained network that a configuration begins with: backbone, weights and pooling."""
    weights = _weights_of(config, settings)
    return f"{find_backbone(config.backbone).key} {weights.identity} {config.head_pooling}"
