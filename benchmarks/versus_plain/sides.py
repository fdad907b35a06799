"""Runs the two sides of the speed comparison, each a process that prints one line of JSON last."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.versus_plain.inputs import Images, Trial, draw_images, draw_trials
from contract.machine import count_cpus
from contract.messages import Outcome

HEARTBEAT_SECONDS = 60.0
TAIL_LINES = 15


class SideFailed(RuntimeError):
    """A side ended badly, so that nothing can be compared."""


@dataclass(kw_only=True)
class Sides:
    """Runs either side on the same images, and prints its progress to stderr."""

    folder: Path
    """Folder of input files and logs."""

    images: Images
    image_size: int
    epochs: int
    cpus: int
    began: float = field(default_factory=time.monotonic)
    _runs: int = 0

    def plain(self, trials: Sequence[Trial], *, label: str) -> dict[str, Any]:
        """Run the plain script on these trials, and give its summary.

        Raises:
            SideFailed: it ended badly, or a trial did.
        """
        return self._plain(["--trials", self._write("trials", trials)], label=label)

    def plain_free(self, space: dict[str, Any], *, num_trials: int, seed: int, label: str) -> dict[str, Any]:
        return self._plain(self._free(space, num_trials, seed), label=label)

    def expert(self, arguments: Sequence[str], *, label: str, script: str) -> dict[str, Any]:
        """Run an expert's script of this folder, and give its summary.

        Raises:
            SideFailed: it ended badly, or a trial did.
        """
        label = f"{label}: {script}"
        summary = self._run(script, arguments, label)
        return _checked(summary, summary.get("errors", []), label)

    def ours(self, trials: Sequence[Trial], *, label: str, without: str | None = None) -> dict[str, Any]:
        """Run our engine on these trials with a cold cache; `without` names a part of LEFT_OUT.

        Raises:
            SideFailed: it ended badly, or a trial did not complete.
        """
        left_out = [] if without is None else ["--without", without]
        label = f"{label}: ours" + (f" without {without}" if without else "")
        summary = self._run("shared_search", ["--trials", self._write("trials", trials), *left_out], label)
        outcomes = [trial["outcome"] for trial in summary["trials"]]
        return _checked(summary, [None if own == Outcome.COMPLETE else own for own in outcomes], label)

    def ours_free(
        self, space: dict[str, Any], *, num_trials: int, seed: int, until: float, label: str
    ) -> dict[str, Any]:
        """Search freely until a report reaches the accuracy `until`, or the trials are used up."""
        arguments = [*self._free(space, num_trials, seed), "--until", str(until)]
        return self._run("shared_search", arguments, f"{label}: ours")

    def _plain(self, arguments: Sequence[str], *, label: str) -> dict[str, Any]:
        summary = self._run("plain_ray_tune", arguments, f"{label}: plain")
        return _checked(summary, [trial["error"] for trial in summary["trials"]], f"{label}: plain")

    def _free(self, space: dict[str, Any], num_trials: int, seed: int) -> list[str]:
        given = ["--space", self._write("space", space)]
        return [*given, "--num-trials", str(num_trials), "--seed", str(seed)]

    def warm_up(self, trial: Trial) -> None:
        """Run both sides on four images, so that neither pays for compiling the imports."""
        few = {
            split: [row for label in (0, 1) for row in [row for row in rows if row[1] == label][:2]]
            for split, rows in self.images.items()
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
        unix, began = time.time(), time.monotonic()
        summary = run_process(command, log=log, alive=lambda: self.say(f"{label} still runs"))
        summary["command_seconds"] = round(time.monotonic() - began, 3)
        summary["command_began"] = unix
        self.say(
            f"{label}: {summary.get('seconds', 0.0):.1f} s (whole command {summary['command_seconds']:.1f} s)"
        )
        return summary


def prepare_sides(flags: argparse.Namespace, folder: Path) -> Sides:
    """Draw the images and warm both sides up, as the flags say.

    Raises:
        ValueError: the images cannot be drawn.
        SideFailed: the warm-up failed.
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
    """Run a process to its end and read the JSON of its last line; `alive` is called once a minute.

    Raises:
        SideFailed: it ended badly, or printed no such line; the message holds the end of its log.
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
    """Wait for the child, which gets Ctrl-C too and needs time to close Ray; then kill it."""
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
    """This process's variables, but with compiled imports kept, as Python does by default."""
    variables = dict(os.environ)
    if variables.pop("PYTHONDONTWRITEBYTECODE", None):
        cache = Path(variables.get("UNFREEZE_CACHE", "~/.cache/unfreeze")).expanduser()
        variables.setdefault("PYTHONPYCACHEPREFIX", str(cache.absolute() / "bytecode"))
    return variables


def repository() -> Path:
    return Path(__file__).resolve().parents[2]


def hardware() -> dict[str, Any]:
    """The machine that figures are taken on."""
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


Run = dict[str, Any]


class PlainRuns:
    """Runs of the plain side, kept by their input, because they take hours.

    Cases may begin with the same trials, and an earlier command may have run them.
    """

    def __init__(self, sides: Sides, *, repeats: int, reuse: Path | None = None) -> None:
        """Take the runs of an earlier command from `reuse`, the file that its --json wrote.

        Raises:
            ValueError: it cannot be read, or was measured on another machine.
        """
        self.runs: dict[str, list[Run]] = {}
        """Runs of this command and of the earlier one, by a hash of their input."""

        self._sides, self._repeats, self._reuse = sides, repeats, reuse
        self._earlier: set[str] = set()
        if reuse is not None:
            self.runs = _read(reuse)
            self._earlier = set(self.runs)

    def listed(self, trials: Sequence[Trial], *, repeat: int, label: str) -> list[Run]:
        """All runs of this list so far; the one of `repeat` runs now if it is lacking."""
        key = self._key(list(trials))
        return self._at(key, repeat, lambda: self._sides.plain(trials, label=label))

    def free(self, space: dict[str, Any], *, num_trials: int, repeat: int, label: str) -> Run:
        """The plain free search whose seed is `repeat`."""
        key = self._key([space, num_trials, repeat])
        search = lambda: self._sides.plain_free(space, num_trials=num_trials, seed=repeat, label=label)  # noqa: E731
        return self._at(key, 0, search)[0]

    def earlier_file(self, trials: Sequence[Trial]) -> str | None:
        """The earlier command's file that this list's runs come from; None if they are this command's."""
        return str(self._reuse) if self._key(list(trials)) in self._earlier else None

    def _at(self, key: str, repeat: int, run: Callable[[], Run]) -> list[Run]:
        known = self.runs.setdefault(key, [])
        if key not in self._earlier and len(known) <= min(repeat, self._repeats - 1):
            known.append(run())
        return known

    def _key(self, what: list[Any]) -> str:
        sides = self._sides
        everything = [what, sides.images, sides.image_size, sides.epochs, sides.cpus]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, list[Run]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs: dict[str, list[Run]] = content["plain_runs"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"--reuse-plain {path}: not a file that --json wrote ({error})") from None
    now = hardware()
    changed = [name for name in ("processor", "cpus") if content["hardware"].get(name) != now[name]]
    if changed:
        values = "; ".join(f"{name} {content['hardware'].get(name)}, not {now[name]}" for name in changed)
        raise ValueError(f"--reuse-plain {path} was measured on another machine ({values}): leave it out")
    return runs
