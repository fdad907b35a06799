"""The moving average of the weights has the right values, also inside the network and after a checkpoint."""

from __future__ import annotations

import torch

from trainables.training.optimizers import WeightAverage


def make_average(decay: float = 0.5) -> tuple[dict[str, torch.Tensor], WeightAverage]:
    live = {"weight": torch.zeros(2), "num_batches": torch.tensor(0)}
    return live, WeightAverage(live, decay=decay)


def test_an_update_moves_the_average_towards_the_weights() -> None:
    live, average = make_average(decay=0.1)
    live["weight"].fill_(1.0)
    live["num_batches"].fill_(7)

    average.update()
    average.update()

    torch.testing.assert_close(average.average["weight"], torch.full((2,), 0.99))
    assert average.average["num_batches"] == 7


def test_early_updates_forget_the_start_faster_than_the_decay_says() -> None:
    live, average = make_average(decay=0.999)
    live["weight"].fill_(1.0)

    average.update()

    torch.testing.assert_close(average.average["weight"], torch.full((2,), 1 - 2 / 11))


def test_the_network_has_the_average_only_while_it_is_applied() -> None:
    live, average = make_average(decay=0.1)
    live["weight"].fill_(1.0)
    average.update()

    with average.applied():
        inside = live["weight"].clone()

    torch.testing.assert_close(inside, torch.full((2,), 0.9))
    assert torch.equal(live["weight"], torch.ones(2))


def test_an_average_goes_on_from_its_state() -> None:
    live, average = make_average(decay=0.9)
    live["weight"].fill_(1.0)
    average.update()
    resumed = WeightAverage(live, decay=0.9)

    resumed.load_state(**average.state())  # type: ignore[arg-type]
    for one in (average, resumed):
        one.update()

    torch.testing.assert_close(resumed.average["weight"], average.average["weight"])
