"""A thousand simulated trials on 64 slots of several real Ray nodes: what does running a search cost?

    python -m benchmarks cluster_scale --trials 1000 --slots 64 --nodes 4 --epoch-seconds 5
    python -m benchmarks cluster_scale --postgresql --tracking thread process --repeats 3 --compress 10
    python -m benchmarks cluster_scale --trials 10000 --without-ray

Everything is real but the training: nodes, workers, Tune, the search, its database, MLflow. A trial sleeps;
its curve is made up. `--compress 10` makes an epoch ten times shorter, to see what breaks first.
--postgresql starts a server of its own and measures both databases in turn; --tracking compares MLflow in the
search's process, as it once was, with one of its own. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from optuna.trial import Trial
from rich.console import Console
from rich.table import Table

from benchmarks.simulated.learning_curves import MAX_EPOCHS, Curves
from benchmarks.simulated.measurement import RunMonitor, find_utilisation
from benchmarks.simulated.postgresql import running_server
from benchmarks.simulated.tracking import Tracking, tracking
from benchmarks.simulated.workers import run_workers
from benchmarks.versus_plain.figures import spread, text_of
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import check_resources
from cluster.ray_tune.run import run_search
from cluster.ray_tune.session import open_session
from cluster.ray_tune.upload import PROJECT
from cluster.schedulers import load_scheduler
from cluster.search.cleaning import Cleaner
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, open_study
from contract.study_layout import StudyPaths

OBJECT_STORE_BYTES = 80 * 2**20
"""Bytes of each node's object store: about the smallest that Ray takes, because nothing is put there."""


@contextmanager
def simulated_nodes(num_nodes: int, *, cpus_per_node: int, bytecode: Path) -> Iterator[None]:
    """Connect this process to a Ray cluster whose CPUs are only numbers, for as long as this lasts."""
    from ray.cluster_utils import Cluster

    # Set before the nodes start, because their workers inherit it: without bytecode each of 64 workers would
    # compile the same imports.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) or sys.dont_write_bytecode:
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(bytecode))
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(PROJECT)}
    node = {"num_cpus": cpus_per_node, "num_gpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
    nodes = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for _ in range(num_nodes - 1):
            nodes.add_node(**node)
        # Without a runtime_env, which would leave the workers that each node starts ahead unused.
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


Figures = dict[str, Any]
METRIC = "val_accuracy"
SEED = 0


def space(trial: Trial) -> dict[str, Any]:
    """A space as large as a real one: three parameters matter, the rest costs the sampler time."""
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    trial.suggest_float("dropout", 0.0, 0.6)
    trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True)
    trial.suggest_categorical("backbone", ("lite0", "lite1", "lite2", "resnet50", "convnext_tiny"))
    trial.suggest_categorical("batch_size", (16, 32, 64))
    trial.suggest_categorical("policy", ("none", "light", "medium"))
    trial.suggest_float("label_smoothing", 0.0, 0.2)
    if trial.suggest_categorical("regime", ("finetune", "linear_probe")) == "finetune":
        trial.suggest_int("unfreeze_depth", 1, 4)
        trial.suggest_float("layer_decay", 0.6, 1.0)
    return {}


def make_study(flags: argparse.Namespace, storage: str | None) -> Study:
    config = StudyConfig(
        space="simulated",
        data="simulated",
        study=f"scale-{time.time_ns()}",  # a database that outlives the folder may hold earlier ones
        runs_dir=flags.folder,
        trials=flags.trials,
        scheduler=flags.scheduler,
        searcher=flags.searcher,
        storage=storage,
        concurrent=flags.slots,
    )
    data: dict[str, Any] = {
        "source": "simulated",
        "contents": "simulated",
        "fingerprint": "simulated",
        "classes": ["yes", "no"],
    }
    data |= {"num_train": 0, "num_val": 0, "num_test": 0}
    return open_study(
        config, facts={"space_table": [], "data": data, "image_size": 1, "max_epochs": MAX_EPOCHS}
    )


def make_search(study: Study, flags: argparse.Namespace) -> Search:
    return Search(
        study.records,
        SearchSetup(
            space=space,
            make_sampler=load_searcher(flags.searcher),
            scheduler=load_scheduler(flags.scheduler),
            num_trials=flags.trials,
            seed=SEED,
            metrics=[METRIC],
            max_epochs=MAX_EPOCHS,
        ),
    )


def run_on_ray(study: Study, search: Search, flags: argparse.Namespace, how: str) -> Figures:
    """Run the search with simulated trials on real nodes, and give its figures."""
    cpus = flags.slots // flags.nodes
    nodes = simulated_nodes(flags.nodes, cpus_per_node=cpus, bytecode=flags.bytecode)
    with nodes, open_session() as session, tracking(study.directory, how) as tracked:
        monitor = make_monitor(study, search, flags, tracked)
        began = time.time()
        ending = _search(study, search, flags, cpus=session.cpus, monitor=monitor)
        ended = time.time()
    use = find_utilisation(study.records.load(), slots=flags.slots, began=began)
    return {
        "ending": ending,
        "slots": flags.slots,
        "nodes": session.num_nodes,
        "epoch_seconds": flags.epoch_seconds / flags.compress,
        "wall_seconds": round(ended - began, 1),
        "utilisation": {name: _rounded(value) for name, value in asdict(use).items()},
        **describe(monitor, search, tracked),
    }


def make_monitor(study: Study, search: Search, flags: argparse.Namespace, tracked: Tracking) -> RunMonitor:
    return RunMonitor(
        search,
        study.records,
        study.directory,
        every_seconds=flags.sample_seconds,
        tracking_pid=tracked.pid,
    )


def _search(
    study: Study, search: Search, flags: argparse.Namespace, *, cpus: float, monitor: RunMonitor
) -> str:
    from benchmarks.simulated.trainable import SimulatedTrial

    config = StudyConfig(space="simulated", data="simulated", concurrent=flags.slots)
    with monitor, Progress(search, console=Console(stderr=True)) as progress:
        ending = run_search(
            search,
            trainable=SimulatedTrial,
            settings={"seed": SEED, "epoch_seconds": flags.epoch_seconds / flags.compress},
            resources=check_resources(config, nodes=[(cpus, 0)]),
            storage_dir=StudyPaths(study.directory).ray_tune,
            progress=progress,
            on_ended=Cleaner(study.paths, search).clean,
        )
    return ending.how if ending.reason is None else f"{ending.how}: {ending.reason}"


def run_alone(study: Study, search: Search, flags: argparse.Namespace, how: str) -> Figures:
    """Run the search and its database without Ray, as fast as they go, and give their figures.

    Seconds of the tenths of the study are CPU seconds, because wall time says little on a busy machine.
    """
    tenths: list[dict[str, float]] = []
    with tracking(study.directory, how) as tracked, make_monitor(study, search, flags, tracked) as monitor:
        propose, began, cpu = search.next_lease, time.time(), time.thread_time()

        def noted() -> Any:
            lease = propose()
            if len(search.trials) >= (len(tenths) + 1) * flags.trials / 10:
                tenths.append(
                    {
                        "trials": len(search.trials),
                        "cpu_seconds": round(time.thread_time() - cpu, 1),
                        "proposing_cpu_seconds": round(monitor.own_cpu["ask"], 1),
                        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                    }
                )
            return lease

        search.next_lease = noted  # type: ignore[method-assign]
        epochs = run_workers(search, Curves(SEED), budget=float("inf"), slots=flags.slots, seed=SEED)
        seconds = time.time() - began
    return {
        "wall_seconds": round(seconds, 1),
        "utilisation": {"results_a_second": round(epochs / seconds, 1)},
        "tenths": tenths,
        **describe(monitor, search, tracked),
    }


def describe(monitor: RunMonitor, search: Search, tracked: Tracking) -> Figures:
    """The driver's cost for each result, and its memory over time."""
    samples = monitor.as_rows()
    last, half = samples[-1], samples[len(samples) // 2]
    results = max(1, last["epochs"])
    cpu = monitor.split_cpu() | {"mlflow": tracked.cpu_seconds}
    return {
        "results": last["epochs"],
        "results_a_second_until_mlflow_has_them": round(
            results / (last["seconds"] + (tracked.behind_seconds or 0.0)), 1
        ),
        "cpu_ms_a_result": {part: round(1000 * seconds / results, 2) for part, seconds in cpu.items()},
        "calls": monitor.summarise_calls(),
        "driver_cpu_share": round(last["cpu_seconds"] / last["seconds"], 3),
        "memory_mb_half_way": half["memory_mb"],
        "memory_mb_at_the_end": last["memory_mb"],
        "largest_lag_seconds": max(sample["lag_seconds"] for sample in samples),
        "tracking_caught_up_after_seconds": tracked.behind_seconds,
        "counts": search.counts(),
        "samples": samples,
    }


def print_run(result: Figures) -> None:
    """Print one line a figure, and a line for each sample."""
    for name, value in result.items():
        if name in ("samples", "tenths"):
            print(f"{name}:")
            for row in value:
                print("  " + "  ".join(f"{key} {number:g}" for key, number in row.items()))
        elif isinstance(value, dict):
            print(f"{name}: " + "  ".join(f"{key} {part}" for key, part in value.items()))
        else:
            print(f"{name}: {value}")


ROWS = (
    ("results", "results"),
    ("results a second", "utilisation results_a_second"),
    ("results a second until MLflow has them", "results_a_second_until_mlflow_has_them"),
    ("busy share of the slots", "utilisation share"),
    ("from an epoch's end to the next, median (s)", "utilisation between_epochs 0"),
    ("the same, 99 % (s)", "utilisation between_epochs 2"),
    ("a report until it is decided, median (ms)", "calls receive median_ms"),
    ("the same, 99 % (ms)", "calls receive p99_ms"),
    ("a transaction, median (ms)", "calls record median_ms"),
    ("the same, 99 % (ms)", "calls record p99_ms"),
    ("CPU a result: database (ms)", "cpu_ms_a_result database"),
    ("CPU a result: sampler (ms)", "cpu_ms_a_result sampler"),
    ("CPU a result: the rest of the search (ms)", "cpu_ms_a_result search"),
    ("CPU a result: Ray Tune, or the simulated workers (ms)", "cpu_ms_a_result tune"),
    ("CPU a result: MLflow (ms)", "cpu_ms_a_result mlflow"),
    ("CPU of the search's process (share of a core)", "driver_cpu_share"),
    ("largest lag of MLflow (s)", "largest_lag_seconds"),
    ("MLflow complete after the search (s)", "tracking_caught_up_after_seconds"),
)
"""Titles of the summary's rows, and where the figure stands in a run's figures."""


def make_table(runs: Sequence[Figures]) -> Table:
    """Make a column for each database and way of tracking: median (least to most) of its runs."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    sides = list(dict.fromkeys((run["database"], run["tracking"]) for run in runs))
    table.add_column("median (least to most)", no_wrap=True)
    for database, how in sides:
        table.add_column(f"{database}, {how}", justify="right")
    for title, place in ROWS:
        cells = []
        for side in sides:
            of_side = (run for run in runs if (run["database"], run["tracking"]) == side)
            values = [value for run in of_side if (value := _find(run, place)) is not None]
            cells.append(text_of(spread(values), 2) if values else "-")
        table.add_row(title, *cells)
    return table


def _find(run: Figures, place: str) -> float | None:
    value: Any = run
    for name in place.split():
        value = value[int(name)] if isinstance(value, tuple | list) else (value or {}).get(name)
    return value


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cluster_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--epoch-seconds", type=float, default=5.0, help="of an epoch, on average")
    parser.add_argument("--compress", type=float, default=1.0, help="so many times shorter is what is slept")
    parser.add_argument("--scheduler", default="asha")
    parser.add_argument("--searcher", default="tpe")
    parser.add_argument("--storage", help="database of the study [SQLite]")
    parser.add_argument("--postgresql", action="store_true", help="measure a PostgreSQL too, started for it")
    parser.add_argument(
        "--tracking",
        nargs="+",
        choices=("process", "thread", "none"),
        help="how MLflow is written [process; none without Ray]",
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs of each kind, in turn")
    parser.add_argument("--sample-seconds", type=float, default=10.0)
    parser.add_argument("--without-ray", action="store_true", help="only the search and its database")
    parser.add_argument("--bytecode", type=Path, help="keep the workers' bytecode here [beside the study]")
    parser.add_argument("--folder", type=Path, help="keep the study here [a temporary folder]")
    flags = parser.parse_args(argv)
    if flags.slots % flags.nodes:
        parser.error(f"--slots {flags.slots} must be a multiple of --nodes {flags.nodes}")
    flags.tracking = flags.tracking or ["none" if flags.without_ray else "process"]
    return flags


def measure(flags: argparse.Namespace, storage: str | None, how: str) -> Figures:
    """Run a new study once."""
    study = make_study(flags, storage)
    try:
        run = run_alone if flags.without_ray else run_on_ray
        return run(study, make_search(study, flags), flags, how)
    finally:
        study.close()


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse(argv)
    runs: list[Figures] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        flags.folder = (flags.folder or Path(folder)).absolute()
        flags.bytecode = (flags.bytecode or flags.folder / "bytecode").absolute()
        databases = {"SQLite" if flags.storage is None else "--storage": flags.storage}
        if flags.postgresql:
            databases["PostgreSQL"] = stack.enter_context(running_server()).url
        for _ in range(flags.repeats):
            for (database, storage), how in itertools.product(databases.items(), flags.tracking):
                runs.append({"database": database, "tracking": how} | measure(flags, storage, how))
                print_run(runs[-1])
    Console(width=max(120, Console().width)).print(make_table(runs))
    about = {"benchmark": "cluster_scale", "trials": flags.trials, "searcher": flags.searcher}
    about |= {"scheduler": flags.scheduler, "cpu_cores": os.cpu_count()}
    print(json.dumps(about | {"runs": runs}))
    return 0


def _rounded(value: Any) -> Any:
    return [round(part, 3) for part in value] if isinstance(value, tuple) else round(value, 4)


if __name__ == "__main__":
    sys.exit(main())
