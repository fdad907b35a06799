"""Times a few passes of backbones in a process of its own, since the commands do not import torch to plan.

python -m trainables.timing.calibration    reads a request from stdin, prints the answer; both JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from trainables.timing.memory import Pass

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.model.classifier import Classifier

BATCH = 16
"""Images of a timed pass; fewer where 16 take longer than PASS_SECONDS."""
PASS_SECONDS = 0.6
NUM_CLASSES = 10
MOST_WAITING = 3.0
"""On a busy machine the passes may take so many times the seconds that they compute."""
START_SECONDS = 60.0
"""Most seconds that importing torch may take, beside the passes."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to time, and for how long at most."""

    backbones: tuple[str, ...]
    image_size: int
    depths: tuple[int | str, ...]
    """Unfreeze depths whose training is timed, the most important first."""

    device: str
    threads: int
    seconds: float
    """No pass begins after so many seconds of computing on a core."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the passes took."""

    seconds: dict[str, float]
    """Seconds per image by `Pass.key`, on a machine that does nothing else."""

    load: float = 1.0
    """How many times as long they took because the machine does other work, too."""


def calibrate(request: Request) -> Answer:
    """Time the passes in a process of its own; an answer without figures if that fails."""
    command = [sys.executable, "-m", "trainables.timing.calibration"]
    limit = START_SECONDS + 10 * request.seconds
    text = json.dumps(asdict(request))
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=limit, check=True)
        return Answer(**json.loads(done.stdout.strip().splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError):
        return Answer(seconds={})  # the estimate is a wide one, and the search says what does not work


def time_passes(request: Request) -> Answer:
    """Time every backbone as far as the time goes: forward first, then the depths in their order."""
    from trainables.device.process_setup import prepare_processor

    prepare_processor(request.threads)
    began, computed = time.perf_counter(), time.process_time()
    found: dict[str, float] = {}
    for number, name in enumerate(request.backbones, start=1):
        share = request.seconds * number / len(request.backbones)

        def is_over(share: float = share) -> bool:
            taken, whole = time.process_time() - computed, time.perf_counter() - began
            return taken > share * request.threads or whole > MOST_WAITING * share

        found |= _time_backbone(name, request, is_over=is_over)
    taken = time.process_time() - computed
    load = (time.perf_counter() - began) / max(taken, 1e-3) if request.threads == 1 else 1.0
    return Answer(seconds=found, load=max(1.0, load if request.device == "cpu" else 1.0))


def _time_backbone(name: str, request: Request, *, is_over: Callable[[], bool]) -> dict[str, float]:
    import torch
    from torch import nn

    from trainables.model.backbones import find_backbone, num_features
    from trainables.model.classifier import Classifier, channels_last
    from trainables.model.cpu.gradients import keep_gradient_layout, quicken_depthwise
    from trainables.model.networks import make_backbone

    device, size = torch.device("cuda" if request.device == "gpu" else "cpu"), request.image_size
    module = make_backbone(find_backbone(name), image_size=size)
    if device.type == "cpu":
        quicken_depthwise(module)
        keep_gradient_layout(module)
    classifier = Classifier(module, nn.Linear(num_features(module), NUM_CLASSES), depth=0).to(device)
    images = channels_last(torch.rand(BATCH, 3, size, size, device=device))
    one = Pass(backbone=name, image_size=size, depth=None, device=request.device, threads=request.threads)
    found = {one.key: _seconds_per_image(lambda batch: classifier.prefix_features(batch), images)}
    for depth in request.depths:
        if is_over():
            break
        try:
            classifier.set_depth(depth)
        except ValueError:  # fewer stages than that
            continue
        features = classifier.prefix_features(images[:4])
        step = _make_step(classifier)
        found[replace(one, depth=depth).key] = _seconds_per_image(step, torch.cat([features] * (BATCH // 4)))
    return found


def _make_step(classifier: Classifier) -> Any:
    """An update of what trains, from the prefix's output on."""
    import torch

    classifier.train()
    trained = [value for value in classifier.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6)

    def step(batch: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = classifier.forward_features(batch).logsumexp(1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _seconds_per_image(run: Any, inputs: Tensor) -> float:
    """Seconds per image of one pass, the faster of two after one that warms up."""
    probe = inputs[:2]
    _clock(run, probe)
    each = _clock(run, probe) / len(probe)
    if each * len(inputs) > PASS_SECONDS:
        return each
    _clock(run, inputs)
    return min(_clock(run, inputs), _clock(run, inputs)) / len(inputs)


def _clock(run: Any, inputs: Tensor) -> float:
    """Seconds of one pass; of a single thread on a CPU those that it computes."""
    import torch

    is_alone = inputs.device.type == "cpu" and torch.get_num_threads() == 1
    # Of the process: autograd's backward pass has a thread of its own.
    clock = time.process_time if is_alone else time.perf_counter
    began = clock()
    run(inputs)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return clock() - began


def read_request(values: Mapping[str, Any]) -> Request:
    lists: Sequence[str] = ("backbones", "depths")
    return Request(**{**values, **{name: tuple(values[name]) for name in lists}})


def main() -> None:
    print(json.dumps(asdict(time_passes(read_request(json.load(sys.stdin))))))


if __name__ == "__main__":
    main()
