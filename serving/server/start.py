"""The command `python -m serving start`: a server for requests, with a page to try the model."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from contract.environment import expand
from contract.study_layout import is_study
from serving.model import Format, find_model
from serving.server.bodies import Limits
from serving.server.config import ModelSource, ServerConfig

TOKEN_VARIABLE = "UNFREEZE_TOKEN"
LIBRARIES = ("ray", "starlette", "uvicorn", "prometheus_client", "python_multipart")
"""Packages that the extra `serve` brings."""

NAME = re.compile(r"[\w.\-]{1,80}")


def main(argv: Sequence[str]) -> int:
    """Serve models until Ctrl-C or SIGTERM; exit code 0 then, 2 for wrong flags or models."""
    config = read_flags(argv)
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise ValueError(f"the server needs {', '.join(missing)}: pip install 'unfreeze[serve]'")
    from serving.server.run import run_server

    return run_server(config)


def read_flags(argv: Sequence[str]) -> ServerConfig:
    """Turn flags into a configuration whose models exist.

    Raises:
        ValueError: a flag or a model is wrong.
    """
    flags = make_parser().parse_args(argv)
    sources = tuple(_find_source(text, flags.format, flags.runs_dir) for text in flags.models)
    for source in sources:
        source.check()
    return ServerConfig(
        sources=sources,
        host=flags.host,
        port=flags.port,
        replicas=flags.replicas,
        cpus_per_replica=flags.cpus_per_replica,
        gpus_per_replica=flags.gpus_per_replica,
        address=flags.address,
        token=read_token(flags.token),
        limits=Limits(
            most_bytes=int(flags.max_megabytes * 2**20),
            most_images=flags.max_images,
            most_pixels=int(flags.max_megapixels * 1e6),
        ),
        most_batch=flags.max_batch,
        request_timeout=flags.request_timeout,
        answer_timeout=flags.answer_timeout,
    )


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's flags."""
    parser = argparse.ArgumentParser(prog="python -m serving start", description=main.__doc__)
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL",
        help="name of a study, its directory, or a model's; NAME=MODEL names it",
    )
    add("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="folder of the studies [runs]")
    add("--format", type=Format, choices=list(Format), default=Format.PT2, help="program to run [pt2]")
    add("--host", default="127.0.0.1", help="address to listen on [127.0.0.1, this machine alone]")
    add("--port", type=int, default=8000, help="0 takes a free one [8000]")
    add(
        "--token",
        metavar="FILE",
        help=f"file with a token that requests must bring [${TOKEN_VARIABLE}, else none]",
    )
    add("--replicas", type=int, default=1, metavar="N", help="processes of each model [1]")
    add("--cpus-per-replica", type=float, metavar="X", help="cores of each [this machine's, shared]")
    add("--gpus-per-replica", type=float, metavar="X", help="GPUs of each, 0.5 is half of one [all, shared]")
    add("--address", help="a running Ray cluster, such as auto [Ray is started here]")
    add("--max-megabytes", type=float, default=64, metavar="X", help="largest request [64]")
    add("--max-images", type=int, default=256, metavar="N", help="most images of a request [256]")
    add("--max-megapixels", type=float, default=64, metavar="X", help="largest image [64]")
    add("--max-batch", type=int, default=32, metavar="N", help="most images computed at once [32]")
    add(
        "--request-timeout",
        type=float,
        default=30,
        metavar="S",
        help="seconds a client may take to send [30]",
    )
    add("--answer-timeout", type=float, default=60, metavar="S", help="seconds until 503 [60]")
    return parser


def read_token(path: str | None) -> str | None:
    """Read the token of a file, else that of the environment; None if there is neither.

    Raises:
        ValueError: the file cannot be read, or there is no token in it.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        token = expand(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--token {path} cannot be read: {error}") from None
    if not token or not token.isascii() or len(token.split()) != 1:
        raise ValueError(f"--token {path}: the file must hold one word of ASCII")
    return token


def _find_source(text: str, format: Format, runs_dir: Path) -> ModelSource:
    name, is_named, place = text.partition("=")
    if not is_named or not NAME.fullmatch(name) or Path(text).exists():
        name, place = "", text
    paths = find_model(place, runs_dir=runs_dir)
    paths = type(paths)(paths.directory.absolute())
    if not name:
        folder = paths.directory
        own = folder.parent.name if folder.name == "model" and is_study(folder.parent) else folder.name
        name = re.sub(r"[^\w.\-]+", "-", own)[:80] or "model"
    return ModelSource(name=name, paths=paths, format=format)
