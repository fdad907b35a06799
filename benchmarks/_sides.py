"""The two sides of the speed comparison, each run as a process of its own that prints a line of JSON last."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._search_inputs import Images, Trial
from cluster.resources import count_cpus

HEARTBEAT_SECONDS = 60.0
TAIL_LINES = 15
FIRST_IMPORTS = (
    "import importlib\n"
    "for name in ('ray.tune', 'ray._private.workers.default_worker', 'ray.tune.search.optuna', 'timm',"
    " 'torchvision.transforms.v2', 'benchmarks.shared_search', 'trainables.lease', 'tune'):\n"
    "    try: importlib.import_module(name)\n"
    "    except Exception as error: print(name, error)\n"
)


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
        summary = self._run(
            "plain_ray_tune", ["--trials", self._write("trials", trials)], label=f"{label}: plain"
        )
        errors = [
            f"trial {n}: {trial['error']}" for n, trial in enumerate(summary["trials"]) if trial["error"]
        ]
        return _checked(summary, errors, label=f"{label}: plain")

    def ours(self, trials: Sequence[Trial], *, label: str, without: str | None = None) -> dict[str, Any]:
        """With a cold cache, in a folder of its own that is removed afterwards."""
        left_out = [] if without is None else ["--without", without]
        label = f"{label}: ours" + (f" without {without}" if without else "")
        summary = self._run(
            "shared_search", ["--trials", self._write("trials", trials), *left_out], label=label
        )
        errors = [
            f"trial {n}: {trial['outcome']}"
            for n, trial in enumerate(summary["trials"])
            if trial["outcome"] != "complete"
        ]
        return _checked(summary, errors, label=label)

    def plain_free(self, space: dict[str, Any], *, num_trials: int, seed: int, label: str) -> dict[str, Any]:
        arguments = [
            "--space",
            self._write("space", space),
            "--num-trials",
            str(num_trials),
            "--seed",
            str(seed),
        ]
        return self._run("plain_ray_tune", arguments, label=f"{label}: plain")

    def ours_free(
        self, space: dict[str, Any], *, num_trials: int, seed: int, until: float, label: str
    ) -> dict[str, Any]:
        arguments = [
            "--space",
            self._write("space", space),
            "--num-trials",
            str(num_trials),
            "--seed",
            str(seed),
        ]
        return self._run("shared_search", [*arguments, "--until", str(until)], label=f"{label}: ours")

    def warm_up(self) -> None:
        """Compile every import once and read every image once: neither side pays for being first."""
        self.say("compiling imports and reading the images once, for both sides")
        subprocess.run(
            [sys.executable, "-c", FIRST_IMPORTS], env=environment(), check=False, stdout=subprocess.DEVNULL
        )
        for path, _ in (*self.images["train"], *self.images["val"]):
            Path(path).read_bytes()

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"[{minutes}:{seconds:02}] {text}", file=sys.stderr, flush=True)

    def _write(self, name: str, content: Any) -> str:
        path = self.folder / f"{name}-{self._runs}.json"
        path.write_text(json.dumps(content))
        return str(path)

    def _run(self, side: str, arguments: Sequence[str], *, label: str) -> dict[str, Any]:
        self._runs += 1
        images = self.folder / "images.json"
        images.write_text(json.dumps(self.images))
        command = [sys.executable, "-m", "benchmarks", side, "--images", str(images), *arguments]
        command += ["--image-size", str(self.image_size), "--epochs", str(self.epochs)]
        command += ["--cpus", str(self.cpus)]
        self.say(f"{label} …")
        log = self.folder / f"{self._runs}-{side}.log"
        began = time.monotonic()
        summary = run_process(command, log=log, alive=lambda: self.say(f"{label} still runs"))
        summary["command_seconds"] = round(time.monotonic() - began, 3)
        self.say(f"{label}: {summary['seconds']:.1f} s (whole command {summary['command_seconds']:.1f} s)")
        return summary


def run_process(command: Sequence[str], *, log: Path, alive: Any = lambda: None) -> dict[str, Any]:
    """Run it to its end and read the JSON of its last line.

    Raises:
        SideFailed: it ended badly, or printed no such line; with the end of what it said.
    """
    output = log.with_suffix(".out")
    with log.open("w") as errors, output.open("w") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=errors, env=environment(), cwd=repository())
        try:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    alive()
        finally:
            _end(process)
    printed = output.read_text().splitlines()
    try:
        summary: dict[str, Any] = json.loads(printed[-1]) if process.returncode == 0 else {}
    except (IndexError, json.JSONDecodeError):
        summary = {}
    if not summary:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
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


def _checked(summary: dict[str, Any], errors: Sequence[str], *, label: str) -> dict[str, Any]:
    if errors:
        raise SideFailed(f"{label}: not every trial ran to its end: {'; '.join(errors[:3])}")
    return summary


def environment() -> dict[str, str]:
    """Both sides may keep compiled imports, as Python does unless it was told otherwise."""
    variables = dict(os.environ)
    if variables.pop("PYTHONDONTWRITEBYTECODE", None):
        cache = Path(variables.get("UNFREEZE_CACHE", "~/.cache/unfreeze")).expanduser()
        variables.setdefault("PYTHONPYCACHEPREFIX", str(cache.absolute() / "bytecode"))
    return variables


def repository() -> Path:
    return Path(__file__).resolve().parent.parent


def hardware() -> dict[str, Any]:
    """What the figures were taken on."""
    facts = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    texts = [path.read_text() if path.exists() else "" for path in facts]
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
