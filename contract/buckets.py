"""What is known of buckets (s3://, gs://): their packages, their time limits, and what their faults mean."""

from __future__ import annotations

from typing import Any

from contract.files import first_line

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 2}}},
    "gs": {"requests_timeout": 15},
    "gcs": {"requests_timeout": 15},
}


def is_url(source: str) -> bool:
    return "://" in source


def describe_fault(error: Exception) -> str:
    """Say in a line what an exception of a bucket's library means, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such bucket or folder"
    if isinstance(error, PermissionError):
        return "access denied: check the credentials and what they may read"
    if "Credentials" in type(error).__name__:
        return (
            "no credentials: give the nodes a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (s3)"
            " or GOOGLE_APPLICATION_CREDENTIALS (gs); a public bucket needs FSSPEC_S3_ANON=1 or"
            " FSSPEC_GS_TOKEN=anon"
        )
    return first_line(error)
