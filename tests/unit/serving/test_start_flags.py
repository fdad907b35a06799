"""Flags of `python -m serving start`: models with names, a token that no command line shows, sane limits."""

from pathlib import Path

import pytest

from serving.model import Format
from serving.server.start import TOKEN_VARIABLE, read_flags, read_token
from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("flags") / "ti ny").directory)


def test_models_are_named_by_the_user_or_by_their_directory(tiny: str) -> None:
    config = read_flags([f"first={tiny}", tiny, "--replicas", "3"])

    assert [source.name for source in config.sources] == ["first", "ti-ny"]
    assert {source.format for source in config.sources} == {Format.PT2}
    assert config.host == "127.0.0.1"
    assert config.replicas == 3


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["{tiny}", "{tiny}"], "two models are named"),
        (["nowhere"], "neither a model's directory nor a study"),
        (["{tiny}", "--format", "onnx"], "has no onnx"),
        (["{tiny}", "--port", "70000"], "--port"),
        (["{tiny}", "--replicas", "0"], "--replicas"),
        (["{tiny}", "--max-images", "0"], "--max-images"),
        (["{tiny}", "--request-timeout", "0"], "--request-timeout"),
        (["{tiny}", "--token", "/no/such/file"], "cannot be read"),
    ],
)
def test_wrong_flags_are_told_before_anything_starts(tiny: str, flags: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_flags([flag.replace("{tiny}", tiny) for flag in flags])


def test_the_token_stands_in_a_file_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    file = tmp_path / "token"
    file.write_text("s3cret\n", encoding="utf-8")
    assert read_token(str(file)) == "s3cret"
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "0ther")
    assert read_token(None) == "0ther"
    file.write_text("two words", encoding="utf-8")
    with pytest.raises(ValueError, match="one word"):
        read_token(str(file))
