"""Ray's own searcher and scheduler on the recorded table; they need Ray's code, but no running Ray."""

from __future__ import annotations

from benchmarks.quality.rival import replay_rival
from benchmarks.quality.rows import BACKBONES
from benchmarks.search_quality import make_world


def test_rays_own_search_takes_as_many_rows_and_begins_with_the_recipes() -> None:
    world = make_world("beans", BACKBONES[:1])

    first, second = (replay_rival(world, num_trials=6, slots=1, seed=1) for _ in range(2))

    assert first == second
    assert first.trials == 6
    assert 1 <= first.complete <= 6
