"""The classifier: a prefix that stays frozen, depths that change, and a state that loads at any depth."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.model.backbones import find_backbone, num_features
from trainables.model.classifier import Classifier
from trainables.model.heads import make_head
from trainables.model.networks import make_backbone
from trainables.model.stages import Depth, cut, num_stages, trainable_names
from trainables.model.weights import load_weights, random_weights

ROW = find_backbone("resnet18")


def make(depth: Depth = 1, **head: object) -> Classifier:
    module = make_backbone(ROW, image_size=64)
    load_weights(module, random_weights(ROW, 0))
    return Classifier(module, make_head(num_features(module), 3, **head), depth=depth)  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def train_one_step(classifier: Classifier) -> None:
    classifier.train()
    functional.cross_entropy(classifier(images()), torch.tensor([0, 1, 2, 0])).backward()
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad


def test_the_prefix_gives_the_same_bits_in_train_mode_and_after_training() -> None:
    classifier = make(depth=2)
    before = classifier.prefix_features(images())

    train_one_step(classifier)
    after = classifier.prefix_features(images())

    assert torch.equal(before, after)
    assert not any(module.training for module in classifier.prefix.modules())
    assert all(module.training for module in classifier.suffix.modules())


def test_logits_from_kept_features_are_those_from_the_images() -> None:
    classifier = make(depth=2).eval()

    logits = classifier.forward_features(classifier.prefix_features(images()))

    assert torch.equal(logits, classifier(images()))


def test_features_kept_in_half_precision_are_accepted() -> None:
    classifier = make(depth=1).eval()

    logits = classifier.forward_features(classifier.prefix_features(images()).half())

    torch.testing.assert_close(logits, classifier(images()), atol=1e-2, rtol=1e-2)


def test_with_everything_unfrozen_the_gradient_reaches_the_stem() -> None:
    classifier = make(depth="all")

    train_one_step(classifier)

    assert classifier.backbone.get_submodule("conv1").weight.grad is not None


def test_unfreezing_deeper_keeps_what_was_trained() -> None:
    classifier = make(depth=1)
    train_one_step(classifier)
    trained = {name: tensor.clone() for name, tensor in classifier.trained_state().items()}
    expected = classifier.eval()(images())

    classifier.set_depth(3)

    state = classifier.trained_state()
    assert set(trained) < set(state)
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())
    torch.testing.assert_close(classifier(images()), expected)


@pytest.mark.parametrize("depth", [0, 1, "all"])
def test_a_trained_state_makes_another_classifier_give_the_same_logits(depth: Depth) -> None:
    classifier, other = make(depth), make(depth, seed=5)
    train_one_step(classifier)

    other.load_trained_state(classifier.trained_state())

    assert torch.equal(other.eval()(images()), classifier.eval()(images()))


def test_a_trained_state_loads_into_a_classifier_that_trains_less() -> None:
    classifier, other = make(depth=2), make(depth=0)
    train_one_step(classifier)

    other.load_trained_state(classifier.trained_state())

    torch.testing.assert_close(other.eval()(images()), classifier.eval()(images()))


def test_a_state_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"head\.output\.weight is"):
        make(depth=0).load_trained_state(
            make(depth=0, width=8).trained_state()
            | make(1).trained_state()
            | {"head.output.weight": torch.zeros(9, 9)}
        )
    with pytest.raises(ValueError, match=r"layer4.* missing"):
        make(depth=1).load_trained_state(make(depth=0).trained_state())


def test_parameters_are_counted_once() -> None:
    head, stage = 512 * 3 + 3, 8_393_728

    counts = [make(depth).num_parameters() for depth in (0, 1, "all")]

    assert counts == [(11_176_512 + head, trained + head) for trained in (0, stage, 11_176_512)]
    assert sum(p.numel() for p in make(1).parameters()) == 11_176_512 + head


def test_the_next_trial_of_a_process_starts_from_the_untouched_weights() -> None:
    expected = make(depth="all").eval()(images())

    train_one_step(make(depth="all"))

    assert torch.equal(make(depth="all").eval()(images()), expected)


def test_features_are_the_same_bits_in_either_memory_layout() -> None:
    classifier = make(depth=2)

    features = classifier.prefix_features(images())
    other = classifier.prefix_features(images().contiguous(memory_format=torch.channels_last))

    assert torch.equal(features, other)
    assert torch.equal(classifier.eval().forward_features(features.contiguous()), classifier(images()))


def test_moving_a_classifier_moves_prefix_suffix_and_head() -> None:
    classifier = make(depth=2).to(torch.float64)

    classifier.set_depth(3)

    assert classifier(images().double()).dtype == torch.float64
    assert {tensor.dtype for tensor in classifier.backbone.state_dict().values()} == {
        torch.float64,
        torch.int64,
    }


def test_the_same_seed_gives_the_same_head_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()

    first, second, other = (make_head(8, 3, width=4, seed=seed) for seed in (1, 1, 2))

    weights = [nn.utils.parameters_to_vector(head.parameters()) for head in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_zero_head_gives_every_class_the_same_chance() -> None:
    head = make_head(8, 4, width=6, batch_norm=True, dropout=0.5, zero_init=True)

    probabilities = head(torch.randn(5, 8)).softmax(1)

    assert torch.equal(probabilities, torch.full((5, 4), 0.25))


def test_a_depth_beyond_the_backbone_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"6 .* 5 stages"):
        make(depth=6)


def test_stochastic_depth_acts_in_train_mode_only_behind_the_cut() -> None:
    backbone = timm.create_model("resnet18", num_classes=0, drop_path_rate=0.9, zero_init_last=False)
    _, suffix = cut(backbone, 2)
    features = torch.rand(64, 128, 8, 8, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        trained = [suffix.train()(features) for _ in range(2)]
        evaluated = [suffix.eval()(features) for _ in range(2)]

    assert not torch.equal(*trained)
    assert torch.equal(*evaluated)


def test_a_model_whose_stages_overlap_freezes_below_a_lower_cut() -> None:
    backbone = timm.create_model("cait_xxs24_224", num_classes=0)

    prefix, suffix = cut(backbone, 1)

    expected = trainable_names(backbone, 1)
    assert expected < set(dict(suffix.named_parameters()))
    assert not expected & set(dict(prefix.named_parameters()))
    assert cut(backbone, "all")[1] is backbone
    assert cut(backbone, num_stages(backbone))[1] is backbone


@pytest.mark.parametrize("depth", ["layers:3", "from:layer4.1", "layers:9"])
def test_a_depth_inside_a_stage_trains_exactly_what_it_names(depth: str) -> None:
    classifier = make(depth).eval()
    with torch.no_grad():  # the last norm of a block starts at zero and would hide the gradients behind it
        for name, parameter in classifier.backbone.named_parameters():
            parameter.add_(0.1 if "bn" in name else 0)
    features = classifier.backbone(classifier.normalise(images()))
    before = {name: tensor.clone() for name, tensor in classifier.backbone.state_dict().items()}
    expected = trainable_names(classifier.backbone, depth)

    torch.testing.assert_close(classifier.suffix(classifier.prefix_features(images())), features)
    train_one_step(classifier)

    parameters = dict(classifier.backbone.named_parameters())
    after = classifier.backbone.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}
    assert {name for name, value in parameters.items() if value.requires_grad} == expected
    assert changed & set(parameters) == expected
    assert {name.rpartition(".")[0] for name in changed} == {name.rpartition(".")[0] for name in expected}
    assert {name.removeprefix("backbone.") for name in classifier.trained_state() if "backbone" in name} == {
        name for name in after if name.rpartition(".")[0] in {name.rpartition(".")[0] for name in expected}
    }


def test_the_last_layers_are_counted_from_the_top() -> None:
    backbone = make().backbone

    names = trainable_names(backbone, "layers:3")

    assert {name.rpartition(".")[0] for name in names} == {
        "layer4.1.bn1", "layer4.1.conv2", "layer4.1.bn2",
    }  # fmt: skip


@pytest.mark.parametrize(("depth", "message"), [("layers:999", "40 layers"), ("from:layer9", "no such")])
def test_a_depth_that_the_backbone_does_not_have_is_refused_by_name(depth: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(depth)


def test_features_that_come_as_maps_are_flattened_and_normalised_before_the_hidden_layers() -> None:
    head = make_head(8, 4, width="6-5", batch_norm=True, dropout=0.5)

    logits = head(torch.randn(3, 2, 2, 2))

    assert logits.shape == (3, 4)
    hidden = [f"{kind}{number}" for number in (1, 2) for kind in ("hidden", "activation", "dropout")]
    assert list(dict(head.named_children())) == ["flatten", "norm", *hidden, "output"]
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [6, 5, 4]
