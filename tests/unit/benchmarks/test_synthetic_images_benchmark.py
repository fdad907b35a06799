"""The benchmark of remedies for a rare class: what is cut, which configurations run, what is printed."""

from __future__ import annotations

import argparse
import io
from collections import Counter

import pytest
from rich.console import Console

from benchmarks.synthetic_images import (
    METHODS,
    NETWORKS,
    Row,
    Work,
    cut_class,
    list_work,
    make_config,
    print_rows,
)
from contract.trial_config import make_trial_config
from trainables.training.regimes import load_regime

EPOCHS = {"frozen": 3, "unfrozen": 2}


def test_a_seed_keeps_other_photos_of_the_class_and_all_of_the_others_and_of_the_test_split() -> None:
    whole = Counter((label, split) for _, label, split in cut_class("rose", kept=10_000, seed=0))

    first, second = (cut_class("rose", kept=40, seed=seed) for seed in (0, 1))

    assert Counter((label, split) for _, label, split in first) == {**whole, ("rose", "train"): 40}
    assert {row for row in first if row[1:] == ("rose", "train")} != {
        row for row in second if row[1:] == ("rose", "train")
    }
    assert first == cut_class("rose", kept=40, seed=0)
    with pytest.raises(ValueError, match="--cut cactus is no class: daisy"):
        cut_class("cactus", kept=40, seed=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_remedy_is_a_configuration_that_a_trial_accepts(network: str, method: str) -> None:
    config = make_trial_config(make_config(Work(network=network, method=method, seed=0), epochs=EPOCHS))

    load_regime(config.regime).check(config)

    assert (config.unfreeze_depth, config.max_epochs) == {"frozen": (0, 3), "unfrozen": (2, 2)}[network]
    assert config.backbone == "lite0"
    assert (config.synthetic_share > 0) == method.startswith("GAN")


def test_the_table_has_means_and_gains_over_the_plain_trial_of_the_same_seed() -> None:
    flags = argparse.Namespace(networks=["frozen"], methods=["plain", "over-sampling"], cut="rose", kept=40)
    rows = [
        Row(**vars(work), macro_f1=value, recall=value / 2, accuracy=0.9, num_train=9, seconds=1.0)
        for seed in (0, 1)
        for work, value in zip(list_work(flags, seed), (0.5 + 0.1 * seed, 0.7), strict=True)
    ]
    console = Console(width=150, file=io.StringIO())

    found = print_rows(rows, flags=flags, console=console)

    assert [row["macro_f1"] for row in found] == [[0.55, 0.5, 0.6], [0.7, 0.7, 0.7]]
    assert found[1]["macro_f1_gain"] == [0.2, 0.1]
    assert "+15.0 (+10.0 to +20.0)" in console.file.getvalue()  # type: ignore[attr-defined]
