"""FinalizeConfig: every flag of finalize.py, with its default, its documentation and its check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.study.job_environment import DEFAULT_RUNS_DIR, in_job, job_runs_dir
from contract.environment import expand
from contract.files import did_you_mean

RULES = ("auto", "single", "prefix_ensemble", "ensemble", "soup", "mean")
"""Names for --rule; "mean" gives all recipes equal weights, as ensembles are often published."""

EXPORTS = ("onnx", "timm", "int8")
"""Names for --export."""

MOST_FOLDS = 20
MOST_GOLDEN = 1000
VIEWS = 2


@dataclass(frozen=True, kw_only=True)
class FinalizeConfig:
    """The flags of finalize.py, checked and resolved."""

    study: str
    """Study: a directory, or a name under --runs-dir."""

    runs_dir: Path = DEFAULT_RUNS_DIR
    """Folder that holds the studies; in a cluster's job $UNFREEZE_RUNS, else ~/unfreeze/runs."""

    rule: str = "auto"
    """How the model is made of the trials: auto, single, prefix_ensemble, ensemble, soup (weights averaged)
    or mean (all recipes alike)."""

    seeds: int = 0
    """Repeat the chosen configurations with so many other seeds; their runs become candidates."""

    folds: int = 0
    """Judge the chosen frozen configurations on all images of train and validation in so many folds."""

    refit: bool = False
    """Train the chosen configurations again on train and validation images together."""

    tta: int = 0
    """2 lets the mirrored image count as a second view of each candidate that trained on mirrored ones."""

    then: str | None = None
    """Study that tells the classes apart which this one takes for one: both become one model."""

    at: str | None = None
    """Operating point for two classes, such as precision=0.95: the model answers the second class there."""

    golden: int = 0
    """Copy so many validation photos into the model's directory: golden images beside the generated ones."""

    test: bool = False
    """Read the test split, and write the reading into the study."""

    export: tuple[str, ...] = ()
    """Formats to add to the model, each if it answers as the model does: onnx, timm (one linear layer on a
    network of timm), int8 (ONNX in 8 bits)."""

    storage: str | None = None
    """Database of the study, where its password is not in the environment [as recorded]."""

    address: str | None = None
    """Join the Ray cluster at this address for what trains [as recorded]."""

    def __post_init__(self) -> None:
        self._check()
        use_jobs_folder = in_job() and self.runs_dir == DEFAULT_RUNS_DIR
        runs_dir = job_runs_dir() if use_jobs_folder else expand(self.runs_dir)
        object.__setattr__(self, "export", tuple(self.export))  # argparse gives a list
        object.__setattr__(self, "runs_dir", runs_dir)

    @property
    def trains(self) -> bool:
        """True if anything is to be trained."""
        return self.seeds > 0 or self.folds > 0 or self.refit

    @property
    def reads_only(self) -> bool:
        """True if nothing but the test split or formats are asked for, with the model that there is."""
        wished = (
            self.rule != "auto" or self.tta > 1 or self.at is not None or self.then is not None or self.golden
        )
        return (self.test or bool(self.export)) and not self.trains and not wished

    def _check(self) -> None:
        """Check the flags as they were given.

        Raises:
            ValueError: one is wrong; the message names it and what to pass instead.
        """
        if self.rule not in RULES:
            hint = did_you_mean(self.rule, RULES, before="; ")
            raise ValueError(f"--rule must be one of {', '.join(RULES)}, got {self.rule!r}{hint}")
        for name in self.export:
            if name not in EXPORTS:
                hint = did_you_mean(name, EXPORTS, before="; ")
                raise ValueError(f"--export must be some of {', '.join(EXPORTS)}, got {name!r}{hint}")
        if self.rule == "soup" and self.refit:
            raise ValueError(
                "--refit trains single configurations again, and --rule soup averages weights: "
                "give one of them"
            )
        if self.seeds < 0:
            raise ValueError(f"--seeds must not be negative, got {self.seeds}")
        if not 0 <= self.golden <= MOST_GOLDEN:
            raise ValueError(f"--golden must be 0 to {MOST_GOLDEN} photos, got {self.golden}")
        if self.folds != 0 and not 2 <= self.folds <= MOST_FOLDS:
            raise ValueError(f"--folds must be 2 to {MOST_FOLDS}, got {self.folds}")
        if self.tta not in (0, 1, VIEWS):
            raise ValueError(f"--tta must be 1 (the image alone) or {VIEWS} (and mirrored), got {self.tta}")
