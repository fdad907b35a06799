"""An epoch accumulates gradients exactly, can be replayed, notices divergence and ends with its schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.device.memory import FittingSize
from trainables.training.loop import Diverged, TrainResult, Updates, evaluate, train_epoch
from trainables.training.optimizers import make_optimizer, make_parameter_groups
from trainables.training.schedules import make_schedule

CLASSES = 3


def make_data(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, generator=generator), torch.randint(CLASSES, (count,), generator=generator)


def make_network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES))


def train(network: nn.Module, *, batch_size: int = 8, seed: int = 0, **options: Any) -> TrainResult:
    inputs, targets = make_data()
    groups = make_parameter_groups(head=dict(network.named_parameters()), backbone={}, learning_rate=0.5)
    updates = {name: options.pop(name) for name in list(options) if name in Updates.__dataclass_fields__}
    settings: dict[str, Any] = {
        "schedule": make_schedule("constant", total_steps=100),
        "first_step": 0,
        "generator": torch.Generator().manual_seed(seed),
    }
    made = {"forward": network, "optimizer": make_optimizer("sgd", groups), "num_classes": CLASSES} | updates
    batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
    return train_epoch(Updates(**made), batches, **settings | options)


def weights_of(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def test_micro_batches_train_like_the_whole_batch() -> None:
    whole, parts = make_network(), make_network()

    train(whole, batch_size=24)
    result = train(parts, batch_size=24, micro_batch=FittingSize(7))

    torch.testing.assert_close(weights_of(parts), weights_of(whole))
    assert result.next_step == 1


def test_micro_batches_of_a_mixed_update_share_its_lambda_and_partners() -> None:
    whole, parts = make_network(), make_network()

    train(whole, batch_size=24, mixup_alpha=1.0, label_smoothing=0.1)
    train(parts, batch_size=24, mixup_alpha=1.0, label_smoothing=0.1, micro_batch=FittingSize(5))

    torch.testing.assert_close(weights_of(parts), weights_of(whole))


def test_an_epoch_replayed_with_the_same_generator_gives_the_same_bits() -> None:
    first, second, other = (make_network(dropout=0.5) for _ in range(3))

    torch.manual_seed(1)
    train(first, mixup_alpha=0.4)
    torch.manual_seed(2)
    train(second, mixup_alpha=0.4)
    train(other, mixup_alpha=0.4, seed=1)

    assert torch.equal(weights_of(first), weights_of(second))
    assert not torch.equal(weights_of(first), weights_of(other))


def test_an_epoch_leaves_the_global_generator_as_it_was() -> None:
    network = make_network(dropout=0.5)
    before = torch.get_rng_state()

    train(network)

    assert torch.equal(torch.get_rng_state(), before)


def test_the_reported_loss_is_the_one_that_was_minimised() -> None:
    network = make_network()
    inputs, targets = make_data()
    expected = nn.functional.cross_entropy(network(inputs), targets, label_smoothing=0.1).item()

    metrics = train(network, batch_size=24, label_smoothing=0.1).sums.compute("train")

    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_mixing_counts_every_image_once() -> None:
    result = train(make_network(), mixup_alpha=0.4)

    assert result.sums.totals[3].item() == pytest.approx(24)
    assert result.images == 24


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_epoch_at_once(value: float) -> None:
    network, batches_seen = make_network(), 0

    def poisoned(inputs: Tensor) -> Tensor:
        nonlocal batches_seen
        batches_seen += 1
        logits: Tensor = network(inputs)
        return logits * value

    inputs, targets = make_data()
    optimizer = make_optimizer(
        "sgd", make_parameter_groups(head=dict(network.named_parameters()), backbone={}, learning_rate=0.1)
    )
    with pytest.raises(Diverged):
        train_epoch(
            Updates(forward=poisoned, optimizer=optimizer, num_classes=CLASSES),
            zip(inputs.split(4), targets.split(4), strict=True),
            schedule=make_schedule("constant", total_steps=100),
            first_step=0,
            generator=torch.Generator(),
        )

    assert batches_seen <= 2


def test_training_stops_where_the_schedule_ends() -> None:
    schedule = make_schedule("hyperrule", total_steps=9999, num_train=24)

    result = train(make_network(), schedule=schedule, first_step=498)

    assert (result.next_step, result.images, result.ended) == (500, 16, True)
    assert result.learning_rate == pytest.approx(0.5 * 0.001)


def test_the_warm_up_starts_from_a_rate_of_zero() -> None:
    network = make_network()
    before = weights_of(network)

    train(network, batch_size=24, schedule=make_schedule("cosine", total_steps=10, warmup_steps=5))

    assert torch.equal(weights_of(network), before)


def test_clipping_bounds_the_step() -> None:
    network = make_network()
    before = weights_of(network)

    train(network, batch_size=24, gradient_clip=1e-3)

    assert 0 < float((weights_of(network) - before).norm()) <= 0.5 * 1e-3 * 1.01


def test_sums_are_reduced_over_the_workers() -> None:
    result = train(make_network(), reduce=lambda tensor: tensor * 2)

    assert result.sums.totals[3].item() == 48
    assert result.images == 24


def test_evaluation_keeps_log_probabilities_and_labels_in_order() -> None:
    network = make_network().eval()
    inputs, targets = make_data()

    result = evaluate(network, zip(inputs.split(7), targets.split(7), strict=True), num_classes=CLASSES)

    assert torch.equal(result.labels, targets)
    assert result.log_probabilities.dtype == torch.float32
    expected = network(inputs).log_softmax(1)
    torch.testing.assert_close(result.log_probabilities, expected, atol=1e-5, rtol=0)
    metrics = result.sums.compute("val")
    assert metrics["val_accuracy"] == pytest.approx(float((expected.argmax(1) == targets).float().mean()))


def test_a_validation_loss_that_is_no_number_is_divergence() -> None:
    with pytest.raises(Diverged, match="validation"):
        evaluate(lambda inputs: inputs[:, :CLASSES] * float("nan"), [make_data()], num_classes=CLASSES)


def test_shares_of_one_class_train_like_the_class_itself() -> None:
    classes, shares = make_network(), make_network()
    inputs, targets = make_data()
    whole = nn.functional.one_hot(targets, CLASSES).float()

    expected = train(classes, batch_size=24, label_smoothing=0.1)
    groups = make_parameter_groups(head=dict(shares.named_parameters()), backbone={}, learning_rate=0.5)
    optimizer = make_optimizer("sgd", groups)
    result = train_epoch(
        Updates(forward=shares, optimizer=optimizer, num_classes=CLASSES, label_smoothing=0.1),
        [(inputs, whole)],
        schedule=make_schedule("constant", total_steps=100),
        first_step=0,
        generator=torch.Generator().manual_seed(0),
    )

    torch.testing.assert_close(weights_of(shares), weights_of(classes))
    torch.testing.assert_close(result.sums.totals, expected.sums.totals)


def test_a_class_weighs_in_the_loss_what_its_weight_says() -> None:
    network = make_network()
    inputs, targets = make_data()
    weights = torch.tensor([0.5, 1.0, 4.0])
    losses = nn.functional.cross_entropy(network(inputs), targets, reduction="none")
    expected = (losses * weights[targets]).mean().item()

    metrics = train(network, batch_size=24, class_weights=weights).sums.compute("train")

    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_micro_batches_of_a_weighted_update_train_like_the_whole_batch() -> None:
    whole, parts = make_network(), make_network()
    weights = torch.tensor([0.5, 1.0, 4.0])

    train(whole, batch_size=24, class_weights=weights)
    train(parts, batch_size=24, class_weights=weights, micro_batch=FittingSize(7))

    torch.testing.assert_close(weights_of(parts), weights_of(whole))
