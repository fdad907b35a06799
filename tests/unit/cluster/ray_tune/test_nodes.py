"""Nodes of a cluster: whether each sees the study and the data, and how many trials fit on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.ray_tune.nodes import alive_nodes, check_paths, elastic_slots, find_missing
from cluster.ray_tune.resources import check_resources
from cluster.ray_tune.session import Session
from cluster.study.config import StudyConfig
from contract.study_layout import StudyPaths


def test_a_directory_of_the_same_name_is_told_from_the_shared_one(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text("another study's")

    assert find_missing([(str(mark), "this study's"), (str(tmp_path), ""), ("/not/there", "")]) == [
        str(mark),
        "/not/there",
    ]
    mark.write_text("this study's")
    assert find_missing([(str(mark), "this study's")]) == []


@pytest.mark.slow
def test_a_path_that_a_node_does_not_see_is_named_with_its_flag(ray_session: Session, tmp_path: Path) -> None:
    check_paths(StudyPaths(tmp_path), others=[("--data", str(tmp_path))])

    with pytest.raises(ValueError, match=r"--data /not/there is not seen by 1 of 1 nodes \(.+\): every node"):
        check_paths(StudyPaths(tmp_path), others=[("--data", "/not/there")])
    assert list(tmp_path.iterdir()) == []
    assert [node.cpus for node in alive_nodes()] == [ray_session.cpus]


@pytest.mark.slow
def test_the_slots_are_those_of_the_nodes_of_now(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.ray_tune.nodes.LOOK_SECONDS", 0)
    config = StudyConfig(space="demo")
    fewer_before = check_resources(config, nodes=[(1, 0)])

    with elastic_slots(fewer_before, ask_for=0, say=print) as count_slots:
        assert count_slots() == ray_session.cpus


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_cluster_without_a_fitting_node_is_asked_for_more_and_the_user_told() -> None:
    config = StudyConfig(space="demo", concurrent=2, cpus_per_trial=16)
    resources = check_resources(config, nodes=[(2, 0)], can_grow=True)
    said: list[str] = []

    with elastic_slots(resources, ask_for=2, say=said.append) as count_slots:
        assert count_slots() == 1

    assert said == ["no node can take a trial yet: the cluster is asked for more"]
