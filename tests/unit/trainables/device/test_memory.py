"""An update that ran out of memory and is repeated in micro-batches equals the one in a single pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.device import memory
from trainables.device.memory import FittingSize, is_out_of_memory
from trainables.training.loop import TrainResult, Updates, evaluate, train_epoch
from trainables.training.optimizers import make_optimizer, make_parameter_groups
from trainables.training.schedules import make_schedule

CLASSES = 3
HUGE = 2**50


class Narrow(nn.Module):
    """A network in which more than so many images make the allocator fail, forward or backward."""

    def __init__(self, most: int, *, backward: bool = False) -> None:
        super().__init__()
        self.most, self.backward, self.failures = most, backward, 0

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.most and not self.backward:
            self._fail(inputs)
        if self.backward and inputs.requires_grad and len(inputs) > self.most:
            inputs.register_hook(self._fail)
        return inputs

    def _fail(self, inputs: Tensor) -> None:
        self.failures += 1
        torch.empty(HUGE)


@pytest.fixture(autouse=True)
def without_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the backbones of other tests in this process, which would be freed first."""
    monkeypatch.setattr(memory, "_reserves", [])


def make_data(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, generator=generator), torch.randint(CLASSES, (count,), generator=generator)


def make_network(narrow: Narrow | None = None, *, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 16), nn.BatchNorm1d(16) if norm else nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, narrow or nn.Identity(), nn.Linear(16, CLASSES))


def train(
    network: nn.Module,
    *,
    size: FittingSize | None = None,
    batch_size: int = 24,
    optimizer: str = "sgd",
    before_step: Callable[[torch.optim.Optimizer], None] | None = None,
) -> TrainResult:
    inputs, targets = make_data()
    groups = make_parameter_groups(head=dict(network.named_parameters()), backbone={}, learning_rate=0.5)
    stepping = make_optimizer(optimizer, groups)
    if before_step is not None:
        stepping.register_step_pre_hook(lambda *_: before_step(stepping))
    updates = Updates(
        forward=network,
        optimizer=stepping,
        num_classes=CLASSES,
        micro_batch=size or FittingSize(),
        changing=tuple(network.buffers()),
    )
    return train_epoch(
        updates,
        list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True)),
        schedule=make_schedule("constant", total_steps=100),
        first_step=0,
        generator=torch.Generator().manual_seed(0),
    )


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name.replace("3.", "4."): value for name, value in network.state_dict().items()}


def assert_same_bits(first: nn.Module, second: nn.Module) -> None:
    for name, value in state_of(first).items():
        assert torch.equal(value, state_of(second)[name]), name


@pytest.mark.parametrize("backward", [False, True])
def test_an_update_that_does_not_fit_is_the_one_that_asks_for_less_at_once(backward: bool) -> None:
    narrow = Narrow(6, backward=backward)
    asked, found = make_network(dropout=0.5, norm=True), make_network(narrow, dropout=0.5, norm=True)
    size = FittingSize()

    expected = train(asked, size=FittingSize(6))
    result = train(found, size=size)

    assert narrow.failures == 2, "24, 12, then 6 fits"
    assert size.of(24) == 6
    assert_same_bits(found, asked)
    assert torch.equal(result.sums.totals, expected.sums.totals)


def test_the_gradients_are_those_of_the_unsplit_batch() -> None:
    whole, found = make_network(), make_network(Narrow(5))

    train(whole)
    train(found)

    for name, value in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_later_updates_keep_the_size_that_fitted() -> None:
    narrow = Narrow(4)

    train(make_network(narrow), batch_size=8)

    assert narrow.failures == 1


def test_the_next_trial_starts_with_what_it_asked_for() -> None:
    first, second = Narrow(6), Narrow(6)

    train(make_network(first), size=FittingSize())
    train(make_network(second), size=FittingSize())

    assert (first.failures, second.failures) == (2, 2)


def test_what_is_only_kept_for_later_is_freed_before_an_update_is_split() -> None:
    narrow, size, freed = Narrow(6), FittingSize(), []

    def free() -> bool:
        if freed:
            return False
        freed.append("backbones")
        narrow.most = 24  # now all of them fit
        return True

    memory.register_reserve(free)
    whole, found = make_network(), make_network(narrow)
    train(whole)
    train(found, size=size)

    assert (narrow.failures, size.of(24)) == (1, 24)
    assert_same_bits(found, whole)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_update_whose_first_step_does_not_fit_is_redone_as_if_nothing_had_happened(name: str) -> None:
    """The optimizer has filled one weight's state and changed it when the next one's state does not fit."""
    asked, found = (make_network(dropout=0.5, norm=True) for _ in range(2))
    expected = train(asked, size=FittingSize(12), optimizer=name)
    steps = [0]

    def step_halfway(optimizer: torch.optim.Optimizer) -> None:
        steps[0] += 1
        if steps[0] > 1:
            return
        weight = optimizer.param_groups[0]["params"][0]
        optimizer.state[weight]["step"] = torch.tensor(1.0)
        with torch.no_grad():
            weight.add_(1.0)
        torch.empty(HUGE)

    size = FittingSize()
    result = train(found, size=size, optimizer=name, before_step=step_halfway)

    assert size.of(24) == 12
    assert_same_bits(found, asked)
    assert torch.equal(result.sums.totals, expected.sums.totals)


def test_the_smaller_size_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(make_network(Narrow(12)))

    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 24 images at once: going on with 12"
    ]


def test_where_not_even_one_image_fits_the_error_says_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        train(make_network(Narrow(0)))

    assert is_out_of_memory(caught.value)


def test_no_image_is_left_alone_to_batch_norm() -> None:
    seen: list[int] = []
    network = make_network(norm=True)
    network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))

    train(network, size=FittingSize(23))

    assert seen == [12, 12]


def test_where_two_images_do_not_fit_that_batch_norm_needs_the_error_says_out_of_memory() -> None:
    with pytest.raises(MemoryError, match="two images that batch norm needs"):
        train(make_network(Narrow(1), norm=True))


def test_workers_that_train_together_do_not_redo_an_update_alone() -> None:
    narrow = Narrow(6)

    with pytest.raises(RuntimeError):
        train(make_network(narrow), size=FittingSize(may_shrink=False))

    assert narrow.failures == 1


def test_any_other_error_is_not_tried_again() -> None:
    network = make_network()
    calls = 0

    def faulty(inputs: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return network(inputs) @ torch.zeros(7)

    with pytest.raises(RuntimeError, match="size mismatch"):
        evaluate(faulty, [make_data()], num_classes=CLASSES)

    assert calls == 1


def test_evaluation_in_smaller_parts_keeps_every_row_in_order() -> None:
    narrow = Narrow(5)
    expected = evaluate(make_network().eval(), [make_data(), make_data(7)], num_classes=CLASSES)

    found = evaluate(make_network(narrow).eval(), [make_data(), make_data(7)], num_classes=CLASSES)

    assert narrow.failures == 3, "24, 12, 6; then 3 fits"
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.log_probabilities, expected.log_probabilities, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.sums.totals, expected.sums.totals)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_running_out_of_memory_is_known_by_all_its_names(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(OSError("not enough memory"))
