"""What the code never does: unpickle what is not its own, run a shell, listen everywhere, keep a secret."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.predictions import load_predictions
from contract.study_layout import TrialPaths
from trainables.training.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[3]
PACKAGES = ("contract", "search_spaces", "trainables", "cluster", "analysis", "benchmarks")
SOURCES = tuple(
    sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))])
)

UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MAY_UNPICKLE = {
    "cluster/ray_tune/adapters.py": "the error that Tune has written into the running search's own folder"
}
MAY_LISTEN: dict[str, str] = {}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call), import aliases resolved."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            yield ".".join(filter(None, (names.get(first, first), rest))), node


def value_of(call: ast.Call, name: str) -> object:
    found = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else found and ast.unparse(found)


def dangers(source: str) -> list[str]:
    """What in a file would run somebody else's code, or could."""
    found = []
    for name, call in calls(source):
        parts = name.split(".")
        if parts[-1] in ("load", "loads", "Unpickler") and UNPICKLERS & set(parts[:-1]):
            found.append(f"{name} unpickles")
        if (name == "torch.load" or (parts[-1] == "load_state_dict" and parts[0] == "timm")) and value_of(
            call, "weights_only"
        ) is not True:
            found.append(f"{name} without weights_only=True")
        if name in ("numpy.load", "np.load") and value_of(call, "allow_pickle") not in (False, None):
            found.append("np.load with allow_pickle")
        if name.startswith("yaml.") and parts[-1] in ("load", "load_all", "unsafe_load", "full_load"):
            found.append(f"{name} makes any object: safe_load")
        if value_of(call, "shell") not in (None, False) or name in ("os.system", "os.popen"):
            found.append(f"{name} runs a shell")
        if name in ("eval", "exec", "builtins.eval", "builtins.exec"):
            found.append(f"{name} runs text")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_code_that_it_was_handed(path: Path) -> None:
    found = dangers(path.read_text())

    allowed = str(path.relative_to(ROOT)) in MAY_UNPICKLE
    assert [danger for danger in found if not (allowed and danger.endswith("unpickles"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "from torch import load as read\nread(path, weights_only=False)",
        "import pickle\npickle.loads(data)",
        "import ray.cloudpickle as cloudpickle\ncloudpickle.load(file)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "import os\nos.system(line)",
        "eval(text)",
        "from timm.models import load_state_dict\nload_state_dict(path)",
    ],
)
def test_each_danger_is_found_where_it_is(source: str) -> None:
    assert dangers(source)


def test_what_may_unpickle_still_does() -> None:
    assert all(dangers((ROOT / name).read_text()) for name in MAY_UNPICKLE), "take it off the list"


def test_nothing_listens_on_every_address_unless_asked() -> None:
    everywhere = re.compile(r"""["'](0\.0\.0\.0|::)["']|host\s*=\s*["']["']""")

    listening = {str(path.relative_to(ROOT)) for path in SOURCES if everywhere.search(path.read_text())}

    assert listening == set(MAY_LISTEN)


class Harm:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return Path.write_text, (self.path, "")


def test_a_checkpoint_that_holds_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "state": Harm(tmp_path / "harmed")}, tmp_path / "checkpoint.pt")

    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(TrialPaths(tmp_path))
    assert not (tmp_path / "harmed").exists()


def test_predictions_that_hold_code_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0"
    folder.mkdir(parents=True)
    array = np.array([Harm(tmp_path / "harmed")], dtype=object)
    np.savez(folder / "predictions.npz", ids=array, labels=array, log_probabilities=array)

    assert load_predictions(tmp_path, 0) is None
    assert not (tmp_path / "harmed").exists()


def test_no_file_that_git_tracks_looks_like_a_secret() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    texts = {
        path: path.read_text(errors="ignore") for path in files if path.is_file() and path.suffix != ".png"
    }

    key = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|gh[pousr]_[A-Za-z0-9]{36}")
    assert len(texts) > 100
    assert [str(path) for path, text in texts.items() if key.search(text)] == []
