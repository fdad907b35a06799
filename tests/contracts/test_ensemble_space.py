"""The members of the published ensemble are recipes of one space, tried first and by their names."""

from __future__ import annotations

from search_spaces import DataFacts, load_space
from trainables.systems import check_config

FACTS = DataFacts(num_train=2_479, num_classes=8, median_pixels=96 * 96)


def test_a_study_begins_with_the_three_members_of_the_published_mean() -> None:
    space = load_space("ensemble")

    recipes = space.recipes(FACTS, backbones=space.backbones, max_epochs=30)

    assert [recipe.name for recipe in recipes] == ["ResNet50", "VGG16", "MobileNet"]
    assert [recipe.config["backbone"] for recipe in recipes] == ["resnet50", "vgg16", "mobilenet_v2"]
    assert [recipe.systems for recipe in recipes] == [("B4",), ("B3",), ()]
    for recipe in recipes:
        config = check_config({**recipe.config, "max_epochs": 30})
        assert (config.regime, config.batch_size) == ("two_phase", 64)
        assert config.learning_rate * config.second_phase_learning_rate_factor == 1e-5


def test_backbones_that_the_user_leaves_out_are_no_members() -> None:
    recipes = load_space("ensemble").recipes(FACTS, backbones=("vgg16", "mobilenet_v2"), max_epochs=30)

    assert "vgg16" in {recipe.config["backbone"] for recipe in recipes}
    assert "resnet50" not in {recipe.config["backbone"] for recipe in recipes}
