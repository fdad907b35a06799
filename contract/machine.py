"""Counts the CPU cores and GPUs that can be used here, and says in one line what is left unused."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ASK_SECONDS = 120.0
"""Most seconds that the question to torch may take; importing torch usually takes 2 to 10."""
DEVICE_FILES = ("nvidia[0-9]*", "dxg", "kfd")
"""Device files in /dev of GPUs: NVIDIA, Windows' Linux, AMD."""
NONE_WANTED = ("", "-1", "nodevfiles")
"""Values of CUDA_VISIBLE_DEVICES by which a user or a job scheduler says that no GPU shall be used."""

_QUESTION = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    usable, error = 0, ""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                torch.cuda.get_device_properties(index)
            except Exception as raised:
                error = str(raised)
                break
            usable += 1
built = torch.version.cuda or getattr(torch.version, "hip", None)
said = [str(one.message) for one in caught if "CUDA" in str(one.message) or "driver" in str(one.message)]
print(json.dumps({"usable": usable, "built": built, "reason": error or (said[0] if said else "")}))
"""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs that trials can use on this machine."""

    usable: int
    unused: str = ""
    """Line for the user that says which GPU is not used and why; empty if there is nothing to say."""


def count_cpus() -> int:
    """Count the CPU cores that this process may use, by its affinity and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = cgroup_quota()
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def count_gpus() -> int:
    """Count the GPUs that torch can use in this process."""
    return find_gpus().usable


def measure_load(seconds: float = 0.05) -> float:
    """Measure how many times as long a thread takes here, now, as if it had a core for itself; at least 1.

    Args:
        seconds: how long a core computes for it.
    """
    began, computed = time.perf_counter(), time.thread_time()
    while time.thread_time() - computed < seconds:
        pass
    return max(1.0, (time.perf_counter() - began) / (time.thread_time() - computed))


def find_gpus() -> Gpus:
    """Ask torch, in a process of its own, but only on a machine where a GPU seems to be.

    Torch knows best how it reads CUDA_VISIBLE_DEVICES (numbers, UUIDs, parts of a GPU), and whether it fits
    the driver. In this process the question would load torch and occupy memory on every GPU.
    """
    return _find_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))


@functools.cache
def _find_gpus(visible: str | None) -> Gpus:
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Gpus(usable=0, unused="the GPU of this Mac is not used: trials run on its CPU cores")
    if not has_gpu_device():
        return Gpus(usable=0)
    if visible is not None and visible.split(",")[0].strip().lower() in NONE_WANTED:
        return Gpus(usable=0)
    return _read_answer(_ask_torch(), visible)


def has_gpu_device(devices: Path = Path("/dev")) -> bool:
    """True if there is a GPU's device file or the driver's own command."""
    return any(any(devices.glob(name)) for name in DEVICE_FILES) or shutil.which("nvidia-smi") is not None


def _ask_torch() -> dict[str, object]:
    command = [sys.executable, "-c", _QUESTION]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
        answer: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"usable": 0, "built": "?", "reason": f"torch does not answer within {ASK_SECONDS:.0f} s"}
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines() or [f"exit code {error.returncode}"]
        return {"usable": 0, "built": "?", "reason": lines[-1]}
    except (OSError, ValueError, IndexError) as error:
        return {"usable": 0, "built": "?", "reason": str(error) or "torch gives no answer"}
    return answer


def _read_answer(answer: dict[str, object], visible: str | None) -> Gpus:
    usable, reason = int(str(answer["usable"])), " ".join(str(answer["reason"]).split())
    if usable and not reason:
        return Gpus(usable=usable)
    if answer["built"] is None:
        reason = "this torch is built for CPUs only; install one that is built for CUDA"
    elif not reason and visible is not None:
        reason = f"CUDA_VISIBLE_DEVICES={visible} names none that is there"
    used = (
        f"only {usable} GPUs are used, though there seem to be more"
        if usable
        else ("no GPU is used, though one seems to be there")
    )
    return Gpus(usable=usable, unused=f"{used}: {reason or 'torch finds none'}")


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the smallest CPU limit, in cores, of this process's control groups; None without a limit.

    In a container the own group is mounted as the root. Elsewhere (Slurm, systemd) it lies some levels down,
    and the limit of each group above it holds, too.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        lines = []
    quotas = []
    for mount, path in [("", "/"), *_own_groups(lines)]:
        group = root / mount
        for part in ("", *Path(path).parts[1:]):
            group = group / part
            quotas.append(_read_quota(group))
    for mount in ("cpu", "cpu,cpuacct"):
        quotas.append(_read_quota(root / mount))
    return min((quota for quota in quotas if quota), default=None)


def _own_groups(lines: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Yield (folder of the hierarchy below the root, path in it) of the process's control groups."""
    groups = []
    for number, controllers, path in (line for line in lines if len(line) == 3):
        if number == "0" and not controllers:
            groups += [("", path), ("unified", path)]
        elif "cpu" in controllers.split(","):
            groups += [("cpu", path), (controllers, path)]
    return groups


def _read_quota(group: Path) -> float | None:
    """Read a control group's limit in cores, of version 2 (cpu.max) or 1 (cpu.cfs_quota_us)."""
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (group / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return int(limit) / int(period) if limit.isdigit() and int(limit) > 0 else None
