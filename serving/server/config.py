"""What `python -m serving start` was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from serving.model import Format, find_formats
from serving.server.bodies import Limits


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model to serve: the directory whose content is looked at when the server starts or reloads it."""

    name: str
    paths: ModelPaths
    format: Format

    def check(self) -> tuple[ModelCard, str]:
        """Look at the directory: the card and the version of what it holds now.

        Raises:
            ValueError: it holds no whole model of this format.
        """
        card = ModelCard.load(self.paths)
        formats = find_formats(self.paths)
        if self.format not in formats:
            there = ", ".join(formats) or "no format"
            raise ValueError(f"{self.paths.directory} has no {self.format}, but {there}")
        version = self.paths.digest()
        if version is None:
            raise ValueError(f"{self.paths.directory} is incomplete: {self.paths.program.name} is missing")
        return card, version


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Models, machine and limits of a server."""

    sources: tuple[ModelSource, ...]
    """The first is the default."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    """Processes of each model."""

    cpus_per_replica: float | None = None
    """None shares this machine's cores among the replicas; on a cluster it is one."""

    gpus_per_replica: float | None = None
    """None shares the GPUs so that each replica finds room for its successor beside it."""

    address: str | None = None
    """Address of a running Ray cluster; None starts Ray on this machine."""

    token: str | None = None
    limits: Limits = field(default_factory=Limits)
    most_batch: int = 32
    """Images of a batch at most."""

    request_timeout: float = 30.0
    """Seconds that a client may take to send a request."""

    answer_timeout: float = 60.0
    """Seconds in which a call is repeated on other replicas, before the client is told 503."""

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two models are named {twice}: give them names, as in first={twice}")
        checks = {
            "--port": 0 <= self.port <= 65535,
            "--replicas": self.replicas >= 1,
            "--cpus-per-replica": self.cpus_per_replica is None or self.cpus_per_replica > 0,
            "--gpus-per-replica": self.gpus_per_replica is None or self.gpus_per_replica >= 0,
            "--max-megabytes": self.limits.most_bytes >= 1,
            "--max-images": self.limits.most_images >= 1,
            "--max-megapixels": self.limits.most_pixels >= 1,
            "--max-batch": self.most_batch >= 1,
            "--request-timeout": self.request_timeout > 0,
            "--answer-timeout": self.answer_timeout > 0,
        }
        if wrong := [flag for flag, is_right in checks.items() if not is_right]:
            raise ValueError(f"{wrong[0]} is out of range")
