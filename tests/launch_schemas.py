"""Validators of launch files: each asks the schema of the tool that will read the file."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.kuberay_schema import RAY_CLUSTER, RAY_JOB

KUBERNETES = "1.37.0"
SBATCH = """
account array begin comment constraint container cores-per-socket cpu-freq cpus-per-gpu cpus-per-task
deadline delay-boot dependency distribution error exclude exclusive export extra-node-info get-user-env
gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold input
job-name kill-on-invalid-dep licenses mail-type mail-user mem mem-bind mem-per-cpu mem-per-gpu mincpus
network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu
ntasks-per-node ntasks-per-socket open-mode output oversubscribe overcommit parsable partition power
prefer priority profile propagate qos quiet reboot requeue reservation signal sockets-per-node spread-job
switches test-only thread-spec threads-per-core time time-min tmp uid use-min-nodes verbose wait
wait-all-nodes wckey wrap
"""
"""Long options of sbatch (its manual, Slurm 24.11)."""


def validate_ray(text: str) -> dict[str, Any]:
    """The cluster as Ray's launcher would take it; raises where Ray, AWS or Google would not know a field."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
    config = yaml.safe_load(text)
    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    check = {"aws": _check_aws_instance, "gcp": _check_gcp_instance, "local": _check_no_instance}
    for kind in prepared["available_node_types"].values():
        check[config["provider"]["type"]](kind["node_config"])
    for command in prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"]:
        check_ray_start(command)
    return prepared


def check_ray_start(command: str) -> None:
    """Every flag of `ray start` in a command is one that this Ray knows."""
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    flags = re.findall(r"(--[a-z][\w-]*)", command.partition("ray start")[2])
    unknown = [flag for flag in flags if flag not in known]
    assert not unknown, f"ray start does not know {unknown}"


def _check_aws_instance(config: dict[str, Any]) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    shape = (
        botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    )
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **config}, shape)
    assert not report.has_errors(), report.generate_report()


def _check_gcp_instance(config: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(_gcp_schema()).validate(config)  # its 5 MB are not checked as a schema


def _check_no_instance(config: dict[str, Any]) -> None:
    assert not config


@cache
def _gcp_schema() -> dict[str, Any]:
    """Google's description of an Instance as a JSON schema that knows no other fields."""
    import googleapiclient

    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    described = json.loads((folder / "compute.v1.json").read_text())["schemas"]

    def convert(node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            return {"$ref": f"#/$defs/{node['$ref']}"}
        kept = {name: node[name] for name in ("type", "enum") if name in node and node[name] != "any"}
        if "items" in node:
            kept["items"] = convert(node["items"])
        if "properties" in node:
            kept["properties"] = {name: convert(child) for name, child in node["properties"].items()}
        if "additionalProperties" in node:
            kept["additionalProperties"] = convert(node["additionalProperties"])
        elif "properties" in node:
            kept["additionalProperties"] = False
        return kept

    return {"$ref": "#/$defs/Instance", "$defs": {name: convert(node) for name, node in described.items()}}


def validate_kubernetes(text: str) -> list[dict[str, Any]]:
    """The objects of a manifest; raises where the API server or KubeRay would not know a field."""
    objects = [found for found in yaml.safe_load_all(text) if found is not None]
    for found in objects:
        if found["kind"] in ("RayCluster", "RayJob"):
            schema = RAY_CLUSTER if found["kind"] == "RayCluster" else RAY_JOB
            jsonschema.validate(found, schema)
            spec = found["spec"] if found["kind"] == "RayCluster" else found["spec"]["rayClusterSpec"]
            _check_ray_groups(spec)
        else:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
    return objects


def _check_ray_groups(spec: dict[str, Any]) -> None:
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
        kubernetes_validate.validate({**template, "template": group["template"]}, KUBERNETES, strict=True)
        check_ray_start("ray start " + " ".join(f"--{name}" for name in group["rayStartParams"]))


def validate_slurm(text: str) -> None:
    """Bash reads it, shellcheck finds nothing, sbatch and Ray know every option."""
    for command in (["bash", "-n"], [_tool("shellcheck"), "-"]):
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    lines = text.splitlines()
    options = [
        re.fullmatch(r"#SBATCH --([\w-]+)(=\S+)?", line) for line in lines if line.startswith("#SBATCH")
    ]
    assert options
    assert all(match and match[1] in SBATCH.split() for match in options)
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:]), "sbatch would not see it"
    for start in re.findall(r'"\$bin/ray" (start(?:[^\n]*\\\n)*[^\n]*)', text):
        check_ray_start(f"ray {start}")


def validate_dockerfile(text: str) -> None:
    done = subprocess.run([_tool("hadolint"), "-"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _tool(name: str) -> str:
    """A program that came with a Python package, beside the interpreter or on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed: make install-dev"
    return found
