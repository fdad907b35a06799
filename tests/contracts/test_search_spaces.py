"""Every search space keeps the contract: valid proposals, valid recipes, the six searched hyperparameters."""

import optuna
import pytest

from contract.trial_config import TrialConfig, make_trial_config
from search_spaces import DataFacts, SearchSpace, describe, load_space, names

FACTS = DataFacts(num_train=2_258, num_classes=5, median_pixels=240 * 320)
SEARCHED_IN_EACH = {"batch_size", "learning_rate", "unfreeze_depth", "dropout", "head_width", "policy"}


@pytest.fixture(params=names())
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return load_space(request.param)


def make_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def propose(space: SearchSpace, trial: optuna.Trial) -> TrialConfig:
    return make_trial_config(space.propose(trial, backbones=space.backbones, max_epochs=3))


def test_every_proposal_is_a_valid_trial_config(space: SearchSpace) -> None:
    study = make_study()

    configs = [propose(space, study.ask()) for _ in range(50)]

    assert all(config.max_epochs == 3 for config in configs)
    assert len({config.learning_rate for config in configs}) > 1


def test_the_six_hyperparameters_are_searched(space: SearchSpace) -> None:
    rows, _ = describe(space, backbones=space.backbones, max_epochs=3)

    # Some regimes leave no choice: nearest neighbours have no rate, and a frozen backbone no depth.
    searched = [row for row in rows if not row.condition or row.condition.startswith("unless regime")]
    assert {row.name for row in searched} >= SEARCHED_IN_EACH


def test_every_recipe_trial_lies_in_the_space_and_states_its_source(space: SearchSpace) -> None:
    study = make_study()
    recipes = space.recipes(FACTS, backbones=space.backbones, max_epochs=3)
    assert recipes

    for recipe in recipes:
        study.enqueue_trial(recipe.config)
        trial = study.ask()
        proposal = space.propose(trial, backbones=space.backbones, max_epochs=3)
        assert trial.params.items() <= recipe.config.items(), recipe.name
        config = make_trial_config({**proposal, **recipe.config})
        taken = {name: getattr(config, name) for name in recipe.config}
        assert taken == recipe.config, recipe.name
        assert recipe.source


def test_no_random_trial_is_blind(space: SearchSpace) -> None:
    study = make_study()

    configs = [propose(space, study.ask()) for _ in range(30)]

    assert not any(config.zero_inputs for config in configs)


def test_a_recipe_trial_leaves_nothing_to_chance_and_has_a_name_of_its_own(space: SearchSpace) -> None:
    recipes = space.recipes(FACTS, backbones=space.backbones, max_epochs=3)

    for recipe in recipes:
        trial = optuna.trial.FixedTrial(recipe.config)
        space.propose(trial, backbones=space.backbones, max_epochs=3)  # raises for a value it lacks
        assert set(trial.params) <= set(recipe.config), recipe.name
    assert len({recipe.name for recipe in recipes}) == len(recipes)


def test_recipe_trials_follow_the_user_to_another_backbone(space: SearchSpace) -> None:
    recipes = space.recipes(FACTS, backbones=("convnext_tiny",), max_epochs=3)

    assert {recipe.config["backbone"] for recipe in recipes} <= {"convnext_tiny"}
    assert not [recipe.systems for recipe in recipes if recipe.systems]


@pytest.mark.parametrize("max_epochs", [1, 2])
def test_the_space_holds_with_the_smallest_budgets(space: SearchSpace, max_epochs: int) -> None:
    study = make_study()

    configs = [
        space.propose(study.ask(), backbones=space.backbones, max_epochs=max_epochs) for _ in range(30)
    ]
    recipes = space.recipes(FACTS, backbones=space.backbones, max_epochs=max_epochs)

    assert all(make_trial_config(config).max_epochs == max_epochs for config in configs)
    for recipe in recipes:
        study.enqueue_trial(recipe.config)
        config = space.propose(study.ask(), backbones=space.backbones, max_epochs=max_epochs)
        assert config.get("frozen_epochs", 0) < max_epochs


def test_the_table_names_every_suggested_hyperparameter(space: SearchSpace) -> None:
    study = make_study()
    rows, _ = describe(space, backbones=space.backbones, max_epochs=3)

    for _ in range(50):
        trial = study.ask()
        propose(space, trial)
        assert set(trial.params) <= {row.name for row in rows}


def test_the_defaults_give_a_study(space: SearchSpace) -> None:
    assert space.defaults.trials > 0
    assert space.max_epochs(FACTS) > 0
    assert space.image_size(FACTS) >= 32
    assert space.summary.endswith(".")


def test_backbones_of_the_user_replace_those_of_the_space(space: SearchSpace) -> None:
    trial = make_study().ask()

    config = space.propose(trial, backbones=("convnext_tiny",), max_epochs=1)

    assert config["backbone"] == "convnext_tiny"


def test_an_unknown_space_names_its_nearest_neighbours() -> None:
    with pytest.raises(ValueError, match="did you mean finetune"):
        load_space("finetunes")


def test_hyperrule_has_500_updates_on_a_small_data_set() -> None:
    space = load_space("bit")

    assert space.max_epochs(FACTS) == 100
    assert space.image_size(FACTS) == 480
    assert space.image_size(DataFacts(num_train=10, num_classes=2, median_pixels=64)) == 128


def test_widths_are_shares_of_the_range_of_what_is_searched(space: SearchSpace) -> None:
    rows, _ = describe(space, backbones=space.backbones, max_epochs=3)

    assert space.widths.keys() <= {row.name for row in rows}
    assert all(0 < width <= 0.5 for width in space.widths.values())
