"""Ray on this machine starts in the background, with workers that have imported what they need, and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
CODE = """
import json, os, sys, threading, time
from pathlib import Path
import psutil, ray
from cluster.ray_tune.local_ray import Preload
from cluster.ray_tune.session import open_session, start_ray
from wiring.side_process import close_all, start_side_processes

class Worker:
    def look(self):
        return os.getpid(), "tabnanny" in sys.modules

def names():
    return sorted(" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))

started = start_ray(cpus=2, gpus=0, preload=Preload("tabnanny", workers=2))
assert threading.current_thread() is threading.main_thread()
with open_session(started=started, cpus=2, gpus=0) as session:
    idle = [one.pid for one in psutil.Process().children(recursive=True) if "ray::IDLE" in one.cmdline()[0]]
    actors = [ray.remote(num_cpus=1)(Worker).remote() for _ in range(2)]
    looked = ray.get([actor.look.remote() for actor in actors])
    running = names()
    ray.kill(actors[0]); ray.kill(actors[1]); time.sleep(1)  # Ray ends a worker's children with it
    ours = start_side_processes(2, spare_folder=started.spare_folder)
    found = []
    for one in ours:
        one.calls.begin(eval, "'tabnanny' in __import__('sys').modules, __import__('os').getppid()")
        found.append((*one.calls.result(), one.process.pid))
    open_files = [len(one.process.net_connections(kind="tcp")) for one in ours]
    close_all(ours)
left = [one.cmdline() for one in psutil.Process().children(recursive=True) if one.status() != "zombie"]
print(json.dumps({
    "cpus": session.cpus, "side": found, "open": open_files,
    "idle_left": [
        pid for *_, pid in found if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"
    ],
    "looked": looked, "idle": sorted(idle), "left": left,
    "unused": [name for name in running if "monitor" in name or "dashboard.py" in name],
}))
"""


def test_workers_are_up_and_have_imported_before_the_first_actor(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(CODE, encoding="utf-8")
    words = (sys.executable, str(tmp_path / "main.py"))
    done = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cpus"] == 2
    assert all(imported for _, imported in found["looked"])
    assert sorted(number for number, _ in found["looked"]) == found["idle"], "actors took other processes"
    (first, parent, one), (second, same_parent, other) = found["side"]
    assert first and second and parent == same_parent, "two forks of a process that was one of a worker"
    assert not {one, other, parent} & set(found["idle"]) and found["open"] == [0, 0]
    assert found["idle_left"] == []
    assert found["unused"] == [] and found["left"] == []


def test_a_command_that_fails_while_ray_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import psutil, time\nfrom cluster.ray_tune.session import start_ray\n"
        "start_ray(cpus=1, gpus=0)\ntime.sleep(1.5)\n"
        "print(*[one.pid for one in psutil.Process().children(recursive=True)])\nraise SystemExit(2)\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "Fatal" not in done.stderr
    _, living = psutil.wait_procs(list(still_there(done.stdout)), timeout=10)
    assert living == []


def still_there(numbers: str) -> Iterator[psutil.Process]:
    for number in numbers.split():
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(int(number))
