"""Latency of programs, and of combinations not yet built, whose shared and own layers are timed apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from contract.answer import Combination, MemberRef, Pooling
from contract.messages import StudySettings
from contract.trial_config import TrialConfig
from trainables.export.members import Configs, config_of, load_pretrained, network_of
from trainables.model.backbones import num_features
from trainables.model.classifier import Normalise, channels_last
from trainables.model.cpu.folding import Fold, find_folds, fold
from trainables.model.networks import normalisation
from trainables.model.stages import Depth, cut, num_stages
from trainables.training.regimes import load_regime

WARM_UPS = 3
REPEATS = 15
PART_WARM_UPS = 1
PART_REPEATS = 5
BATCH = 32
BATCH_REPEATS = 3

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Speed of a network on one device."""

    milliseconds: float
    """For one image, the median of some runs."""

    images_per_second: float
    """At batches of 32, the median of some runs."""


def measure_latency(network: Network, *, image_size: int, device: torch.device) -> Latency:
    """Time a network or program that is on the device."""
    one, batch = (torch.zeros(count, 3, image_size, image_size, device=device) for count in (1, BATCH))
    return Latency(
        milliseconds=time_ms(network, one),
        images_per_second=1000 * BATCH / time_ms(network, batch, repeats=BATCH_REPEATS, warm_ups=1),
    )


@torch.inference_mode()
def time_ms(network: Network, inputs: Tensor, *, repeats: int = REPEATS, warm_ups: int = WARM_UPS) -> float:
    """Milliseconds of one call: the median of `repeats` calls after some that do not count."""
    times = []
    for _ in range(warm_ups + repeats):
        began = time.perf_counter()
        network(inputs)
        if inputs.device.type == "cuda":
            torch.cuda.synchronize(inputs.device)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[warm_ups:])


@torch.inference_mode()
def computing_ms(network: Network, inputs: Tensor) -> float:
    """Milliseconds of one call on an accelerator; on a CPU those that one thread computes.

    Other processes do not count: parts are added up and compared, and a busy machine would turn their order.
    """
    if inputs.device.type != "cpu":
        return time_ms(network, inputs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(PART_WARM_UPS + PART_REPEATS):
            began = time.thread_time()
            network(inputs)
            times.append(1000 * (time.thread_time() - began))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[PART_WARM_UPS:])


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """A configuration's network in two: what may be shared, and its own."""

    prefix_ms: float
    own_ms: float
    is_linear: bool
    """Linear heads on the same features merge to one where logits are pooled."""


@dataclass
class CombinationCosts:
    """Milliseconds for one image of any combination of a study, estimated from timed parts.

    Trained weights do not change the speed, so no `model.pt` is read: configurations that differ in
    backbone, depth and head only are timed, each once, in about a tenth of a second.
    """

    settings: StudySettings
    num_train: int = 1000
    """Training images, which nearest neighbours compare with."""

    _backbones: dict[str, nn.Module] = field(default_factory=dict)
    _folds: dict[nn.Module, list[Fold]] = field(default_factory=dict)
    _timed: dict[Hashable, _Parts] = field(default_factory=dict)

    def milliseconds(self, combination: Combination, configs: Configs) -> float:
        """Estimate the time of one image: the longest prefix of each network and view, and all own layers."""
        return self.of_members(
            [member.ref for member in combination.members if member.weight],
            configs,
            pools_logits=combination.pooling is Pooling.LOGITS,
        )

    def of_members(self, refs: Iterable[MemberRef], configs: Configs, *, pools_logits: bool) -> float:
        """The same for members given alone."""
        prefixes: dict[tuple[str, str], float] = {}
        merged: dict[tuple[str, str], float] = {}
        own = 0.0
        for ref in refs:
            config = config_of(ref, configs)
            parts, key = self._parts(config), (network_of(config, self.settings), ref.view)
            prefixes[key] = max(prefixes.get(key, 0.0), parts.prefix_ms)
            if parts.is_linear and pools_logits:
                merged[key] = parts.own_ms
            else:
                own += parts.own_ms
        return sum(prefixes.values()) + sum(merged.values()) + own

    def _parts(self, config: TrialConfig) -> _Parts:
        head = (config.head_width, config.head_batch_norm, config.regime == "knn")
        network = network_of(config, self.settings)
        key = (network, config.unfreeze_depth, *head)
        if key not in self._timed:
            if network not in self._backbones:
                self._backbones[network] = load_pretrained(config, self.settings).to(self._device)
            self._timed[key] = self._time(config, self._backbones[network])
        return self._timed[key]

    def _folds_of(self, backbone: nn.Module, images: Tensor) -> list[Fold]:
        """Batch norms that a program has folded, found once for all depths, which takes 0.3 s."""
        if backbone not in self._folds:
            self._folds[backbone] = find_folds(backbone, images)
        return self._folds[backbone]

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self.settings.use_gpu else "cpu")

    @torch.inference_mode()
    def _time(self, config: TrialConfig, backbone: nn.Module) -> _Parts:
        regime, size = load_regime(config.regime), self.settings.image_size
        depth: Depth = regime.phases(config, num_stages(backbone))[-1].depth
        head = regime.make_head(
            config,
            in_features=num_features(backbone),
            num_classes=len(self.settings.classes),
            num_train=self.num_train,
            seed=0,
        )
        images = channels_last(torch.rand(1, 3, size, size, device=self._device))
        before, after = (fold(part.eval(), self._folds_of(backbone, images)) for part in cut(backbone, depth))
        normalise = Normalise(*normalisation(backbone)).to(self._device)
        prefix = nn.Sequential(normalise, before)
        features = prefix(images)
        suffix = nn.Sequential(after, head.eval().to(self._device))
        return _Parts(
            prefix_ms=computing_ms(prefix, images),
            own_ms=computing_ms(suffix, features),
            is_linear=depth == 0 and config.head_width == 0 and not regime.uses_neighbours,
        )
