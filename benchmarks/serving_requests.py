"""Ray Serve and MLflow's server beside the bare program: images per second, and milliseconds of a request.

    python -m benchmarks serving_requests --study runs/my-study

All three answer the same JPEGs of 224 px with the same program: the bare program in this process (decode and
forward), `python -m serving start` and `mlflow models serve` in their own. They take turns by request.
Without a study a small one is searched first. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from contract.machine import count_cpus
from contract.sqlite_files import sqlite_url
from contract.stop_signals import stopping_like_ctrl_c
from contract.study_layout import StudyPaths
from serving.model import Model, load_model

SIDE = 224
START_SECONDS = 180

Ask = Callable[[list[bytes]], list[str]]
"""Labels for files."""


def make_photos(count: int, *, seed: int = 0) -> list[bytes]:
    """Make JPEGs of SIDE x SIDE pixels with the size in bytes of a photo's (12 kB)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def ask_serve(port: int, model: str) -> Ask:
    """Ask `serving start` over one connection: one file as raw bytes, several as a form."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(contents: list[bytes]) -> list[str]:
        kind, body = "image/jpeg", contents[0]
        if len(contents) > 1:
            boundary = secrets.token_hex(8)
            disposition = 'Content-Disposition: form-data; name="file"; filename="a.jpg"'
            head = f"--{boundary}\r\n{disposition}\r\n\r\n".encode()
            body = b"".join(head + one + b"\r\n" for one in contents) + f"--{boundary}--\r\n".encode()
            kind = f"multipart/form-data; boundary={boundary}"
        value = _post(connection, f"/models/{model}/predict", body, kind)
        return [row["label"] for row in value["predictions"]]

    return ask


def ask_mlflow(port: int) -> Ask:
    """Ask `mlflow models serve` over one connection: base64 in JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(contents: list[bytes]) -> list[str]:
        data = [[base64.b64encode(one).decode()] for one in contents]
        body = json.dumps({"dataframe_split": {"columns": ["image"], "data": data}}).encode()
        value = _post(connection, "/invocations", body, "application/json")
        return [row["label"] for row in value["predictions"]]

    return ask


def _post(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str) -> Any:
    for attempt in range(2):
        try:
            connection.request("POST", path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            break
        except (BrokenPipeError, http.client.RemoteDisconnected, ConnectionResetError):
            connection.close()  # MLflow's server closes a connection that was idle while the others answered
            assert attempt == 0
    content = answer.read()
    assert answer.status == 200, (answer.status, content[:300])
    return json.loads(content)


def ask_bare(model: Model) -> Ask:
    """Decode and predict in this process."""
    return lambda contents: [one if isinstance(one, str) else one.label for one in model.classify(contents)]


@contextmanager
def running(command: list[str], *, port: int, path: str, log: Path, **environment: str) -> Iterator[None]:
    """Run a server until its `path` answers 200, and end it afterwards."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(port, path):
                waiting = process.poll() is None and time.monotonic() < deadline
                assert waiting, log.read_text(encoding="utf-8", errors="replace")[-2000:]
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def measure(asks: dict[str, Ask], photos: list[bytes], *, rounds: int, num_single: int, num_many: int) -> Any:
    """Ask all in turns: of each the seconds of every request with one image, and with 16."""
    expected = next(iter(asks.values()))(photos)
    seconds: dict[str, dict[str, list[float]]] = {name: {"single": [], "many": []} for name in asks}
    for name, ask in asks.items():
        for _ in range(3):  # warm-up, and the same labels from all
            assert ask(photos) == expected, name
            assert ask(photos[:1]) == expected[:1], name
    for _ in range(rounds):
        for kind, contents, count in (("many", photos, num_many), ("single", photos[:1], num_single)):
            for _ in range(count):
                for name, ask in asks.items():
                    began = time.perf_counter()
                    ask(contents)
                    seconds[name][kind].append(time.perf_counter() - began)
    return seconds


def summarize(seconds: Any, *, rounds: int, num_images: int) -> list[dict[str, Any]]:
    """Medians of the rounds' rates, beside the bare program's in the same round, and percentiles."""
    rates = {
        name: [num_images * len(part) / sum(part) for part in np.array_split(kinds["many"], rounds)]
        for name, kinds in seconds.items()
    }
    bare_median = statistics.median(seconds["bare"]["single"])
    rows = []
    for name, kinds in seconds.items():
        shares = [mine / bare for mine, bare in zip(rates[name], rates["bare"], strict=True)]
        single = 1000 * np.percentile(kinds["single"], [50, 95, 99])
        rows.append(
            {
                "program": name,
                "images/s": statistics.median(rates[name]),
                "share of bare": statistics.median(shares),
                "lowest": min(shares),
                "highest": max(shares),
                "single p50 ms": single[0],
                "over bare": single[0] - 1000 * bare_median,
                "p95": single[1],
                "p99": single[2],
            }
        )
    return rows


def search_small_study(folder: Path) -> Path:
    """Search a study of two frozen trials at 224 px."""
    flags = [
        "--image-size",
        "224",
        "--backbones",
        "lite0",
        "--trials",
        "2",
        "--max-epochs",
        "1",
        "--study",
        "small",
    ]
    command = [sys.executable, "tune.py", "--space", "demo", *flags, "--runs-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, help="a study with a model [a small one is searched]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--single", type=int, default=30, help="requests of one image in a round")
    parser.add_argument("--many", type=int, default=6, help="requests of 16 images in a round")
    parser.add_argument("--no-mlflow", action="store_true", help="leave MLflow's server out")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="flags for serving start, last")
    flags = parser.parse_args()
    photos = make_photos(16)
    with stopping_like_ctrl_c(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        study = flags.study or search_small_study(folder)
        paths = StudyPaths(study.absolute())
        asks: dict[str, Ask] = {"bare": ask_bare(load_model(paths.model, device="cpu", threads=count_cpus()))}
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "serving",
            "start",
            f"model={paths.model.directory}",
            "--port",
            str(port),
        ]
        stack.enter_context(
            running([*command, *flags.serve], port=port, path="/health", log=folder / "serve.log")
        )
        asks["ray serve"] = ask_serve(port, "model")
        if not flags.no_mlflow:
            port = free_port()
            mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
            served = [*mlflow, "-m", f"models:/{study.name}/1", "--port", str(port)]
            own = {
                "MLFLOW_TRACKING_URI": sqlite_url(paths.tracking_database),
                # It calls uvicorn by name.
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            }
            stack.enter_context(running(served, port=port, path="/ping", log=folder / "mlflow.log", **own))
            asks["mlflow"] = ask_mlflow(port)
        seconds = measure(asks, photos, rounds=flags.rounds, num_single=flags.single, num_many=flags.many)
    rows = summarize(seconds, rounds=flags.rounds, num_images=len(photos))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in rows[0]:
        table.add_column(head)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    Console().print(table)
    print(json.dumps({"cpus": count_cpus(), "rounds": flags.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
