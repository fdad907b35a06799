"""Nearest neighbours as a head: votes, ties, distances, and training images judged without themselves."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from trainables.model.heads import NeighbourHead

CLASSES = 3


def make_data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return torch.randn(count, 4, generator=generator) + 2 * torch.eye(4)[labels], labels


def make_head(
    features: Tensor, labels: Tensor, *, num_neighbours: int = 3, distance: str = "cosine"
) -> NeighbourHead:
    head = NeighbourHead(
        features.shape[1],
        CLASSES,
        num_images=len(features),
        num_neighbours=num_neighbours,
        distance=distance,  # type: ignore[arg-type]
    )
    head.remember(features, labels)
    return head.eval()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("num_neighbours", [1, 5])
def test_the_votes_are_those_of_scikit_learn(distance: str, num_neighbours: int) -> None:
    features, labels = make_data(80, seed=0)
    others, _ = make_data(40, seed=1)
    reference = KNeighborsClassifier(num_neighbours, metric=distance).fit(features, labels)

    logits = make_head(features, labels, num_neighbours=num_neighbours, distance=distance)(others)

    shares = torch.from_numpy(reference.predict_proba(others)).float()
    expected = (shares * num_neighbours + 1 / CLASSES) / (num_neighbours + 1)
    torch.testing.assert_close(logits.exp(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(40))


def test_a_tie_goes_to_the_class_of_the_nearer_neighbour() -> None:
    head = make_head(
        torch.tensor([[0.0], [2.0]]), torch.tensor([2, 0]), num_neighbours=2, distance="euclidean"
    )

    classes = head(torch.tensor([[0.9], [1.1]])).argmax(1)

    assert classes.tolist() == [2, 0]


def test_in_train_mode_an_image_does_not_vote_on_itself() -> None:
    features = torch.tensor([[0.0], [1.0], [1.5]])
    head = make_head(features, torch.tensor([0, 1, 2]), num_neighbours=1, distance="euclidean")

    with_itself = head.eval()(features).argmax(1)
    without = head.train()(features).argmax(1)

    assert with_itself.tolist() == [0, 1, 2]
    assert without.tolist() == [1, 2, 1]


def test_where_there_are_fewer_images_than_neighbours_all_vote() -> None:
    head = make_head(torch.rand(4, 2), torch.tensor([1, 1, 1, 0]), num_neighbours=50)

    probabilities = head(torch.rand(1, 2)).exp()

    torch.testing.assert_close(probabilities, torch.tensor([[4 / 15, 10 / 15, 1 / 15]]), atol=1e-3, rtol=0)


def test_a_remembered_set_travels_in_the_state() -> None:
    features, labels = make_data(10, seed=0)
    head, other = make_head(features, labels), make_head(torch.zeros(10, 4), torch.zeros(10).long())

    other.load_state_dict(head.state_dict())

    assert torch.equal(other(features), head(features))
