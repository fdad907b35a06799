"""What the machine has for the trials: cores by affinity and quota, GPUs as torch sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from contract import machine
from contract.machine import cgroup_quota, count_cpus, find_gpus


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the device file of a GPU."""
    monkeypatch.setattr(machine, "has_gpu_device", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine._find_gpus.cache_clear()


def let_torch_answer(monkeypatch: pytest.MonkeyPatch, **answer: Any) -> None:
    told = {"usable": 0, "built": "12.8", "reason": ""} | answer
    monkeypatch.setattr(machine, "_ask_torch", lambda: told)
    machine._find_gpus.cache_clear()


@pytest.mark.parametrize("visible", ["none", "5", "GPU-0f", "MIG-1b/2/0", "0,1", "NoDevFiles", None])
def test_a_machine_without_a_gpu_has_none_whatever_is_visible_and_starts_no_process(
    monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    monkeypatch.setattr(machine, "has_gpu_device", lambda: False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    machine._find_gpus.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert find_gpus() == machine.Gpus(usable=0)


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "-1,0"])
def test_gpus_that_are_hidden_on_purpose_need_no_question_and_no_remark(
    monkeypatch: pytest.MonkeyPatch, gpu_machine: None, visible: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert find_gpus() == machine.Gpus(usable=0)


@pytest.mark.parametrize(("visible", "usable"), [("0", 1), ("0,3", 2), ("GPU-0f,GPU-1a", 2), ("MIG-7c", 1)])
def test_torch_says_how_many_of_the_visible_gpus_can_be_used(
    monkeypatch: pytest.MonkeyPatch, gpu_machine: None, visible: str, usable: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    let_torch_answer(monkeypatch, usable=usable)

    assert find_gpus() == machine.Gpus(usable=usable)


@pytest.mark.parametrize(
    ("answer", "visible", "said"),
    [
        ({"built": None}, None, "no GPU is used, though one seems to be there: this torch is built for CPUs"),
        (
            {"reason": "The NVIDIA driver is too old\n(11040)"},
            None,
            "one seems to be there: The NVIDIA driver",
        ),
        ({}, "none", "CUDA_VISIBLE_DEVICES=none names none that is there"),
        ({}, None, "one seems to be there: torch finds none"),
        ({"usable": 1, "reason": "device kernel image is invalid"}, None, "only 1 GPUs are used, though"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named_with_the_reason_in_one_line(
    monkeypatch: pytest.MonkeyPatch, gpu_machine: None, answer: dict[str, Any], visible: str | None, said: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    let_torch_answer(monkeypatch, **answer)

    found = find_gpus()

    assert found.usable == answer.get("usable", 0)
    assert said in found.unused
    assert "\n" not in found.unused


def test_a_torch_that_does_not_start_is_a_reason_not_an_error(
    monkeypatch: pytest.MonkeyPatch, gpu_machine: None
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, "python", stderr="Traceback\nImportError: libcudart.so.12")

    monkeypatch.setattr(subprocess, "run", fail)

    assert find_gpus().unused.endswith("ImportError: libcudart.so.12")


@pytest.mark.slow
def test_the_question_to_torch_is_answered_on_this_machine() -> None:
    answer = machine._ask_torch()

    assert set(answer) == {"usable", "built", "reason"}
    assert answer["built"] != "?", answer["reason"]


def test_an_apple_gpu_that_is_not_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    machine._find_gpus.cache_clear()

    found = find_gpus()
    machine._find_gpus.cache_clear()

    assert found.usable == 0
    assert "this Mac is not used" in found.unused


def test_a_gpus_device_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not machine.has_gpu_device(tmp_path)

    (tmp_path / "nvidia0").touch()

    assert machine.has_gpu_device(tmp_path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_containers_quota_limits_the_cpus(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    write(tmp_path / "root/cpu.max", "150000 100000\n")
    write(tmp_path / "unlimited/cpu.max", "max 100000\n")

    assert cgroup_quota(tmp_path / "root", own) == 1.5
    assert cgroup_quota(tmp_path / "unlimited", own) is None
    assert cgroup_quota(tmp_path / "nothing", tmp_path / "nothing") is None


def test_the_smallest_quota_on_the_way_to_the_own_group_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/system.slice/job_7/step_0\n")
    write(tmp_path / "root/system.slice/cpu.max", "800000 100000\n")
    write(tmp_path / "root/system.slice/job_7/cpu.max", "300000 100000\n")
    write(tmp_path / "root/system.slice/job_7/step_0/cpu.max", "max 100000\n")
    write(tmp_path / "root/other/cpu.max", "100000 100000\n")

    assert cgroup_quota(tmp_path / "root", own) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_the_first_version_is_found_under_both_names(tmp_path: Path, mount: str) -> None:
    own = tmp_path / "own"
    own.write_text("5:cpuset:/\n4:cpu,cpuacct:/slurm/job_7\n0::/init.scope\n")
    write(tmp_path / "root" / mount / "slurm/job_7/cpu.cfs_quota_us", "250000\n")
    write(tmp_path / "root" / mount / "slurm/job_7/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "root" / mount / "cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "root" / mount / "cpu.cfs_period_us", "100000\n")

    assert cgroup_quota(tmp_path / "root", own) == 2.5


def test_cores_are_those_of_the_affinity_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cgroup_quota", lambda: 2.5)
    assert count_cpus() == 3

    monkeypatch.setattr(machine, "cgroup_quota", lambda: None)
    assert count_cpus() == 8
