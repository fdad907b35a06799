"""The two sides of the speed comparison, each run as a process of its own that prints a line of JSON last."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.versus_plain.inputs import Images, Trial, draw_images, draw_trials
from cluster.machine import count_cpus

HEARTBEAT_SECONDS = 60.0
TAIL_LINES = 15


class SideFailed(RuntimeError):
    """A side ended badly: nothing can be compared."""


@dataclass(kw_only=True)
class Sides:
    """Runs either side on the same images; what it says goes to stderr, with the time since the start."""

    folder: Path
    """For input files and logs."""
    images: Images
    image_size: int
    epochs: int
    cpus: int
    began: float = field(default_factory=time.monotonic)
    _runs: int = 0

    def plain(self, trials: Sequence[Trial], *, label: str) -> dict[str, Any]:
        """The plain script on these trials."""
        return self._plain(["--trials", self._write("trials", trials)], label=label)

    def plain_free(self, space: dict[str, Any], *, num_trials: int, seed: int, label: str) -> dict[str, Any]:
        return self._plain(self._free(space, num_trials, seed), label=label)

    def ours(self, trials: Sequence[Trial], *, label: str, without: str | None = None) -> dict[str, Any]:
        """With a cold cache, in a folder of its own that is removed afterwards."""
        left_out = [] if without is None else ["--without", without]
        label = f"{label}: ours" + (f" without {without}" if without else "")
        summary = self._run("shared_search", ["--trials", self._write("trials", trials), *left_out], label)
        outcomes = [trial["outcome"] for trial in summary["trials"]]
        return _checked(summary, [own if own != "complete" else None for own in outcomes], label)

    def ours_free(
        self, space: dict[str, Any], *, num_trials: int, seed: int, until: float, label: str
    ) -> dict[str, Any]:
        """Until a report reaches an accuracy, or the trials are used up."""
        arguments = [*self._free(space, num_trials, seed), "--until", str(until)]
        return self._run("shared_search", arguments, f"{label}: ours")

    def _plain(self, arguments: Sequence[str], *, label: str) -> dict[str, Any]:
        summary = self._run("plain_ray_tune", arguments, f"{label}: plain")
        return _checked(summary, [trial["error"] for trial in summary["trials"]], f"{label}: plain")

    def _free(self, space: dict[str, Any], num_trials: int, seed: int) -> list[str]:
        given = ["--space", self._write("space", space)]
        return [*given, "--num-trials", str(num_trials), "--seed", str(seed)]

    def warm_up(self, trial: Trial) -> None:
        """Both sides once on a few images: every import is compiled, and neither pays for being first."""
        few = {
            part: [row for label in (0, 1) for row in [row for row in rows if row[1] == label][:2]]
            for part, rows in self.images.items()
        }
        first = replace(self, images=few, epochs=1)
        first.plain([trial], label="warm-up")
        first.ours([trial], label="warm-up")
        for path, _ in (*self.images["train"], *self.images["val"]):
            Path(path).read_bytes()  # into the page cache
        self._runs = first._runs

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"[{minutes}:{seconds:02}] {text}", file=sys.stderr, flush=True)

    def _write(self, name: str, content: Any) -> str:
        path = self.folder / f"{name}-{self._runs}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)

    def _run(self, side: str, arguments: Sequence[str], label: str) -> dict[str, Any]:
        self._runs += 1
        images = self.folder / "images.json"
        images.write_text(json.dumps(self.images), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            f"benchmarks.versus_plain.{side}",
            "--images",
            str(images),
            *arguments,
        ]
        command += ["--image-size", str(self.image_size), "--epochs", str(self.epochs)]
        command += ["--cpus", str(self.cpus)]
        self.say(f"{label} …")
        log = self.folder / f"{self._runs}-{side}.log"
        began = time.monotonic()
        summary = run_process(command, log=log, alive=lambda: self.say(f"{label} still runs"))
        summary["command_seconds"] = round(time.monotonic() - began, 3)
        self.say(f"{label}: {summary['seconds']:.1f} s (whole command {summary['command_seconds']:.1f} s)")
        return summary


def prepare_sides(flags: argparse.Namespace, folder: Path) -> Sides:
    """Both sides on images drawn as the flags say, warmed up.

    Raises:
        ValueError: the images cannot be drawn.
        SideFailed: the warm-up did.
    """
    sides = Sides(
        folder=folder,
        images=draw_images(flags.data, num_images=flags.images, seed=0),
        image_size=flags.image_size,
        epochs=flags.epochs,
        cpus=flags.cpus,
    )
    if not flags.no_warm_up:
        sides.warm_up(draw_trials(1, depths=(1,), policies=flags.policies, seed=1)[0])
    return sides


def run_process(command: Sequence[str], *, log: Path, alive: Any = lambda: None) -> dict[str, Any]:
    """Run it to its end and read the JSON of its last line.

    Raises:
        SideFailed: it ended badly, or printed no such line; with the end of what it said.
    """
    output = log.with_suffix(".out")
    with log.open("w", encoding="utf-8") as errors, output.open("w", encoding="utf-8") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=errors, env=environment(), cwd=repository())
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    alive()
        finally:
            _end(process)
    printed = output.read_text(encoding="utf-8").splitlines()
    try:
        summary: dict[str, Any] = json.loads(printed[-1]) if process.returncode == 0 else {}
    except (IndexError, json.JSONDecodeError):
        summary = {}
    if not summary:
        tail = "\n".join(log.read_text(errors="replace", encoding="utf-8").splitlines()[-TAIL_LINES:])
        raise SideFailed(
            f"exit code {process.returncode} of {' '.join(command[2:5])}; the end of its log:\n{tail}"
        )
    return summary


def _end(process: subprocess.Popen[Any]) -> None:
    """After Ctrl-C the child got it too: give it the time to close Ray."""
    try:
        process.wait(30 if process.poll() is None else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _checked(summary: dict[str, Any], errors: Sequence[str | None], label: str) -> dict[str, Any]:
    found = [f"trial {number}: {error}" for number, error in enumerate(errors) if error]
    if found:
        raise SideFailed(f"{label}: {len(found)} trials did not run to their end: {'; '.join(found[:3])}")
    return summary


def environment() -> dict[str, str]:
    """Both sides may keep compiled imports, as Python does unless it was told otherwise."""
    variables = dict(os.environ)
    if variables.pop("PYTHONDONTWRITEBYTECODE", None):
        cache = Path(variables.get("UNFREEZE_CACHE", "~/.cache/unfreeze")).expanduser()
        variables.setdefault("PYTHONPYCACHEPREFIX", str(cache.absolute() / "bytecode"))
    return variables


def repository() -> Path:
    return Path(__file__).resolve().parents[2]


def hardware() -> dict[str, Any]:
    """What the figures were taken on."""
    facts = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in facts]
    names = [
        line.partition(":")[2].strip() for line in texts[0].splitlines() if line.startswith("model name")
    ]
    memory = [int(line.split()[1]) for line in texts[1].splitlines() if line.startswith("MemTotal")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cpus": count_cpus(),
        "memory_gb": round(memory[0] / 2**20, 1) if memory else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }
