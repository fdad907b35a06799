"""Every launch file, by the schema of the tool that reads it; every command in them, by the real parser."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.__main__ import make_parser
from cluster.study.flags import parse_flags
from tests.launch_schemas import validate_dockerfile, validate_kubernetes, validate_ray, validate_slurm

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "cluster" / "launch"
RAY_FILES = tuple(sorted(path.name for path in LAUNCH.glob("*.yaml")))
MANIFESTS = tuple(sorted(path.name for path in (LAUNCH / "kubernetes").glob("*.yaml")))


def read(name: str) -> str:
    return next(
        path for path in (ROOT / name, LAUNCH / name, LAUNCH / "kubernetes" / name) if path.is_file()
    ).read_text()


@pytest.mark.parametrize("name", RAY_FILES)
def test_a_ray_cluster_file_is_one_that_ray_and_the_cloud_take(name: str) -> None:
    cluster = validate_ray(read(name))

    assert cluster["file_mounts"] == {"/home/unfreeze/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in read(name)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_gpu_workers_are_asked_for_on_spot_first_and_then_on_demand(name: str) -> None:
    kinds = validate_ray(read(name))["available_node_types"]

    spot, on_demand = kinds["gpu_spot"], kinds["gpu_on_demand"]
    assert spot["priority"] > on_demand["priority"]
    assert spot["max_workers"] == on_demand["max_workers"] > 0
    differing = {
        key for key in spot["node_config"] if spot["node_config"][key] != on_demand["node_config"].get(key)
    }
    assert differing == ({"InstanceMarketOptions"} if name == "aws.yaml" else {"scheduling"})


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_one_that_kubernetes_and_kuberay_take(name: str) -> None:
    objects = validate_kubernetes(read(name))

    assert all(found["metadata"].get("namespace", "unfreeze") == "unfreeze" for found in objects)


def pods(name: str) -> list[dict[str, Any]]:
    def walk(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if "containers" in node:
                yield node
            for child in node.values():
                yield from walk(child)
        elif isinstance(node, list):
            for child in node:
                yield from walk(child)

    return [pod for found in yaml.safe_load_all(read(name)) for pod in walk(found)]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_container_has_limits_and_no_more_rights_than_it_needs(name: str) -> None:
    containers = [container for pod in pods(name) for container in pod["containers"]]

    assert containers
    assert all({"cpu", "memory"} <= set(container["resources"]["limits"]) for container in containers)
    assert all(container["securityContext"]["allowPrivilegeEscalation"] is False for container in containers)
    assert all(pod["securityContext"]["runAsNonRoot"] is True for pod in pods(name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_manifest_holds_a_secret_or_opens_a_service_to_the_outside(name: str) -> None:
    objects = list(yaml.safe_load_all(read(name)))
    variables = [
        variable
        for pod in pods(name)
        for container in pod["containers"]
        for variable in container.get("env", ())
    ]

    assert not any(found["kind"] in ("Secret", "Ingress") for found in objects)
    assert all(found["spec"].get("type") == "ClusterIP" for found in objects if found["kind"] == "Service")
    secret = [variable for variable in variables if re.search("PASSWORD|TOKEN|KEY|SECRET", variable["name"])]
    assert all("secretKeyRef" in variable["valueFrom"] for variable in secret)
    assert not re.search(r"://[^\s/@]+:[^\s/@]+@", read(name)), "a password in a URL"


def test_the_job_of_its_own_brings_the_same_cluster_as_the_one_that_stays() -> None:
    (cluster,) = validate_kubernetes(read("ray_cluster.yaml"))
    (job,) = validate_kubernetes(read("ray_job.yaml"))

    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert cluster["spec"]["authOptions"]["mode"] == "token"
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    assert groups["gpu-spot"]["priority"] > groups["gpu-on-demand"]["priority"]


def test_the_ray_of_the_manifests_is_the_one_of_the_constraints() -> None:
    pinned = re.search(r"^ray==(.+)$", read("constraints.txt"), re.MULTILINE)
    (cluster,) = validate_kubernetes(read("ray_cluster.yaml"))

    assert pinned and cluster["spec"]["rayVersion"] == pinned[1]


def test_the_slurm_script_is_sound() -> None:
    validate_slurm(read("slurm.sh"))


def test_the_dockerfile_is_sound_runs_as_nobody_special_and_copies_what_is_there() -> None:
    text = read("Dockerfile")

    validate_dockerfile(text)

    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users[-1].partition(":")[0].isdecimal() and users[-1] != "0"
    assert all((ROOT / name).is_file() for name in ("pyproject.toml", "constraints.txt"))


def test_the_image_holds_what_runs_and_nothing_else() -> None:
    lines = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    admitted = {line[1:].rstrip("/") for line in lines if line.startswith("!")}

    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    modules = {path.name for path in ROOT.glob("*.py")}
    assert lines[0] == "**"
    assert admitted == packages | modules | {"pyproject.toml", "constraints.txt", "LICENSE", "README.md"}


def test_launch_files_travel_with_the_package() -> None:
    declared = re.search(r"^cluster = \[(.+)\]$", read("pyproject.toml"), re.MULTILINE)
    assert declared
    patterns = re.findall(r'"([^"]+)"', declared[1])

    files = [str(path.relative_to(ROOT / "cluster")) for path in LAUNCH.rglob("*") if path.is_file()]

    assert files and all(any(fnmatch.fnmatch(file, pattern) for pattern in patterns) for file in files)


@pytest.mark.parametrize(
    ("name", "validate", "right", "wrong"),
    [
        ("aws.yaml", validate_ray, "idle_timeout_minutes", "idle_timeout_minute"),
        ("aws.yaml", validate_ray, "InstanceMarketOptions", "InstanceMarketOption"),
        ("aws.yaml", validate_ray, "priority:", "prioriti:"),
        ("aws.yaml", validate_ray, "--autoscaling-config", "--autoscaler-config"),
        ("gcp.yaml", validate_ray, "provisioningModel: SPOT", "provisioningModel: SPOTT"),
        ("gcp.yaml", validate_ray, "initializeParams", "initialiseParams"),
        ("gcp.yaml", validate_ray, "ssh_user", "ssh_username"),
        ("on_premise.yaml", validate_ray, "worker_ips", "workers_ips"),
        ("on_premise.yaml", validate_ray, "run_options", "run_option"),
        ("services.yaml", validate_kubernetes, "containerPort", "containerPorts"),
        ("services.yaml", validate_kubernetes, "podSelector", "podSelectors"),
        ("services.yaml", validate_kubernetes, "storageClassName", "storageClass"),
        ("ray_cluster.yaml", validate_kubernetes, "maxReplicas", "maxReplica"),
        ("ray_cluster.yaml", validate_kubernetes, "secretName", "secret"),
        ("ray_cluster.yaml", validate_kubernetes, "volumeMounts", "volumeMount"),
        ("ray_cluster.yaml", validate_kubernetes, "num-cpus", "num-cpu"),
        ("ray_job.yaml", validate_kubernetes, "entrypoint:", "entryPoint:"),
        ("ray_job.yaml", validate_kubernetes, "shutdownAfterJobFinishes", "shutdownAfterJobFinished"),
        ("slurm.sh", validate_slurm, "#SBATCH --nodes", "#SBATCH --node"),
        ("slurm.sh", validate_slurm, "--dashboard-port", "--dashbord-port"),
        ("slurm.sh", validate_slurm, '"${steps[@]}"', "$steps"),
        ("slurm.sh", validate_slurm, "\nfi\n", "\n"),
        ("Dockerfile", validate_dockerfile, "COPY --from", "CPOY --from"),
        ("Dockerfile", validate_dockerfile, "USER 1000:1000", "USER root"),
    ],
)
def test_a_misspelt_field_is_found(name: str, validate: Callable[[str], Any], right: str, wrong: str) -> None:
    text = read(name)
    assert right in text

    with pytest.raises(Exception):  # noqa: B017 (each schema has an exception of its own)
        validate(text.replace(right, wrong))


def tune_commands() -> list[tuple[str, str]]:
    """(file, flags) of every call of tune.py in what users copy, through `submit` and Slurm too."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(LAUNCH.rglob("*.*"))]:
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        if path.name == "ray_job.yaml":
            text = yaml.safe_load(text)["spec"]["entrypoint"]
        for line in text.splitlines():
            call = re.search(r"(?:tune\.py|slurm\.sh|cluster submit[^`]*? --) (--(?!help)[^`|]+)", line)
            if call and "$@" not in line:
                found.append((str(path.relative_to(ROOT)), re.split(r"\s+#|\)", call[1])[0].strip()))
    return found


COMMANDS = tune_commands()


def test_commands_are_found_in_the_readme_the_docs_and_the_launch_files() -> None:
    assert {"README.md", "docs/cluster.md", "cluster/launch/slurm.sh"} <= {file for file, _ in COMMANDS}
    assert "cluster/launch/kubernetes/ray_job.yaml" in {file for file, _ in COMMANDS}


@pytest.mark.parametrize(("file", "flags"), COMMANDS)
def test_every_command_that_users_copy_has_flags_that_exist(
    file: str, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.strip("[]") for word in shlex.split(flags) if word != "…"]

    config = parse_flags(words)

    assert config.space, capsys.readouterr().err


def cluster_commands() -> list[tuple[str, str]]:
    """(file, words) of every call of `python -m cluster` in what users copy, without tune.py's flags."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for line in path.read_text().splitlines():
            call = re.match(r"(?:\.venv/bin/)?python -m cluster ([^#`]+)", line)
            if call:
                found.append((str(path.relative_to(ROOT)), call[1].partition(" -- ")[0].strip()))
    return found


@pytest.mark.parametrize(("file", "words"), sorted(set(cluster_commands())))
def test_every_cluster_command_that_users_copy_exists(file: str, words: str) -> None:
    flags = make_parser().parse_args(shlex.split(words))

    assert flags.command == words.split()[0]


def test_a_command_with_a_flag_that_does_not_exist_is_found() -> None:
    with pytest.raises(SystemExit):
        parse_flags(shlex.split("--space bit --datas s3://bucket/photos"))
