"""A greedy soup is an ordinary candidate: weights and predictions that fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from contract.answer import MemberRef
from contract.trial_config import config_as_dict, make_trial_config
from tests.tiny_data import make_settings
from tests.trained_members import combine, train_members, validation_images
from trainables.export.ensemble import load_combination
from trainables.export.parity import load_pooled_predictions, load_predictions
from trainables.export.soup import average, make_soup, soup_key
from trainables.training.checkpoints import load_state

ONE, TWO, THREE = (MemberRef("trial", number) for number in range(3))
SOUP = MemberRef("final", 0)


FROZEN = {"regime": "linear_probe", "unfreeze_depth": 0}


@pytest.mark.parametrize(
    ("config", "rates"), [({"unfreeze_depth": 1}, (1e-3, 2e-3, 3e-3)), (FROZEN, (0.05, 0.051, 0.052))]
)
def test_a_soup_predicts_what_it_stores_and_is_better_than_its_best_trial(
    tmp_path: Path, config: Mapping[str, Any], rates: tuple[float, ...]
) -> None:
    settings = make_settings(tmp_path, fits=("crop",))
    configs = train_members(settings, *({**config, "learning_rate": rate} for rate in rates))

    soup = make_soup([ONE, TWO, THREE], configs, settings, target=settings.paths.final(0))

    assert soup is not None
    assert soup.metrics["val_loss"] < soup.single_loss
    assert len(soup.counts) > 1
    network = load_combination(combine(SOUP), {SOUP: soup.config}, settings)
    found = network(validation_images(settings, configs)).detach().numpy()
    _, stored = load_predictions(settings.paths.final(0))
    assert abs(found - stored).max() < 1e-4
    assert soup.config["learning_rate"] in rates
    load_pooled_predictions(combine(ONE, SOUP), settings.paths)


def test_without_an_average_that_is_better_nothing_is_written(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, fits=("crop",))
    configs = train_members(settings, FROZEN | {"max_epochs": 8}, FROZEN | {"learning_rate": 1e-6})

    soup = make_soup([ONE, TWO], configs, settings, target=settings.paths.final(0))

    assert soup is None
    assert not settings.paths.final(0).directory.exists()


def test_the_average_of_a_state_with_itself_is_that_state(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, fits=("crop",))
    configs = train_members(settings, {"unfreeze_depth": 1, "max_epochs": 1})
    state = load_state(settings.trial_paths(0).weights)

    assert state is not None
    mean = average([state["trained"], state["trained"]])
    assert all((mean[name] == tensor).all() for name, tensor in state["trained"].items())
    assert len(configs) == 1


def test_only_trials_that_began_alike_go_into_one_soup(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, fits=("crop",))

    def key(**changes: Any) -> Any:
        base = {"backbone": "lite0", "regime": "finetune", "unfreeze_depth": 1}
        return soup_key(config_as_dict(make_trial_config(base | changes)), settings)

    assert key() == key(learning_rate=1e-2, dropout=0.3, policy="light")
    others = [
        {"unfreeze_depth": 2},
        {"backbone": "lite1"},
        {"head_batch_norm": True},
        {"initial_head": "probe"},
    ]
    assert len({key(), *(key(**changes) for changes in others)}) == 5
    assert key(head_width=64) is None
    assert key(regime="knn", unfreeze_depth=0) is None
    configs = {ref: {"backbone": "lite0", "unfreeze_depth": depth} for ref, depth in ((ONE, 1), (TWO, 2))}
    with pytest.raises(ValueError, match="began alike"):
        make_soup([ONE, TWO], configs, settings, target=settings.paths.final(0))
