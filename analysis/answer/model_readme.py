"""The card of a model for people: README.md of its directory, in the form that the model hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from analysis.answer.words import mark_later, name_rule, show, show_reading
from analysis.reading import StudyInfo
from analysis.readings import TestReading
from contract.files import printable

TASK = "image-classification"
MOST_CLASSES = 50
"""Names of classes that the text lists; labels.txt has all."""

FORMATS = {
    "pt2": (
        "classifier.pt2",
        "`torch.export.load(...).module()`: images [N, 3, S, S] in [0, 1] -> probabilities",
    ),
    "onnx": ("model.onnx", "ONNX: the same, input `images`, output `probabilities`"),
    "int8": ("model.int8.onnx", "ONNX in whole numbers of 8 bits: smaller, and not quite the same"),
    "timm": ("timm/", '`timm.create_model("local-dir:timm")`: normalised images -> logits'),
}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the text is made of."""

    card: Mapping[str, Any]
    """The model's export.json."""

    study: StudyInfo
    said: Sequence[str]
    """Sentences on what the model can and cannot do."""

    reading: TestReading | None = None
    has_test: bool = True

    @property
    def licences(self) -> Mapping[str, str]:
        """Licence of the pretrained weights by backbone."""
        found: Mapping[str, str] = self.card.get("licences") or {}
        return found


def render_readme(facts: ModelFacts) -> str:
    """Render README.md: metadata with scores in the model-index form, then the text."""
    from huggingface_hub import ModelCardData

    licences = set(facts.licences.values())
    data = ModelCardData(
        model_name=printable(facts.study.name),
        license=licences.pop() if len(licences) == 1 else "other",
        tags=[TASK, "unfreeze"],
        pipeline_tag=TASK,
        eval_results=_list_results(facts) or None,
    )
    return printable(f"---\n{data.to_yaml()}\n---\n" + "\n".join(_write_text(facts)) + "\n")


def _list_results(facts: ModelFacts) -> list[Any]:
    """Scores as the hub reads them: corrected ones of the validation images, and those of the test split."""
    from huggingface_hub import EvalResult

    def result(metric: str, score: Mapping[str, float], value: str, split: str, said: str) -> Any:
        name = metric.removeprefix("val_")
        interval = f"95% interval {show(metric, score['low'])} to {show(metric, score['high'])}"
        return EvalResult(
            task_type=TASK,
            dataset_type="images",
            dataset_name=_name_data(facts.study),
            dataset_split=split,
            metric_type=name,
            metric_value=score[value],
            metric_name=f"{name.replace('_', ' ')}, {said} ({interval})",
        )

    found = [
        result(metric, score, "corrected", "validation", "corrected for the choice")
        for metric, score in facts.card["scores"].items()
    ]
    if facts.reading is not None:
        said = f"read with this model{mark_later(facts.reading)}"
        found += [
            result(f"val_{name}", score, "value", "test", said)
            for name, score in facts.reading.record["scores"].items()
        ]
    return found


def _write_text(facts: ModelFacts) -> Iterator[str]:
    card, study = facts.card, facts.study
    classes = [f"`{name}`" for name in card["classes"][:MOST_CLASSES]]
    more = f" and {len(card['classes']) - MOST_CLASSES} more" if len(card["classes"]) > MOST_CLASSES else ""
    yield f"# {study.name}\n"
    yield f"Classifies images into {len(card['classes']):,} classes: "
    yield f"{', '.join(classes)}{more}.\n"
    made = name_rule(card["rule"], len(card.get("members") or ()))
    version = study.facts.get("versions", {}).get("unfreeze", "")
    yield f"It is {made} (pretrained: {', '.join(facts.licences) or 'nothing'}), which Unfreeze {version}"
    yield f"made from the study `{study.name}` of {study.created[:10]}.\n"
    yield "## Use\n"
    yield "`python example.py photo.jpg` needs numpy, Pillow and torch (onnxruntime for `model.onnx`)."
    size = card["image_size"]
    yield f"Images become {size} x {size} pixels ({card['fit']}) by the code in `code/`.\n"
    yield "| file | what it is |\n|---|---|"
    for name, (file, what) in FORMATS.items():
        if name == "pt2" or name in (card.get("formats") or {}):
            yield f"| `{file}` | {what} |"
    yield "| `labels.txt`, `export.json` | classes in the order of the probabilities; thresholds, origin |"
    yield "| `golden/` | images with their probabilities, to check another machine by |"
    yield "| `checksums.sha256` | `sha256sum --check checksums.sha256` |\n"
    yield from _write_scores(facts)
    yield "## Data\n"
    yield f"{_name_data(study)}: {_count_images(study)}.\n"
    yield "## Limits\n"
    yield from (f"- {line}" for line in facts.said)
    yield "- Nothing is known of images of another kind than the training images.\n"
    yield "## Licence of the weights\n"
    for backbone, licence in facts.licences.items():
        yield f"- pretrained weights of {backbone}: {licence}"
    yield "- what was trained on top belongs to whoever trained it, under the terms of the images"


def _write_scores(facts: ModelFacts) -> Iterator[str]:
    yield "## Scores\n"
    yield "| metric | as chosen | corrected for the choice (95% interval) | test split (95% interval) |"
    yield "|---|---|---|---|"
    scores: Mapping[str, Mapping[str, float]] = facts.card["scores"]
    read = facts.reading.record["scores"] if facts.reading is not None else {}
    for metric in dict.fromkeys([*scores, *(f"val_{name}" for name in read)]):
        score = scores.get(metric)
        tested = show_reading(metric, facts.reading, has_test=facts.has_test)
        chosen, corrected = "", ""
        if score is not None:
            low, high = show(metric, score["low"]), show(metric, score["high"])
            chosen = show(metric, score["as_chosen"])
            corrected = f"{show(metric, score['corrected'])} ({low} to {high})"
        yield f"| {metric.removeprefix('val_').replace('_', ' ')} | {chosen} | {corrected} | {tested} |"
    yield ""


def _name_data(study: StudyInfo) -> str:
    """The data's name without its place, which is nobody's business where the model goes."""
    return PurePath(study.data).name or study.data


def _count_images(study: StudyInfo) -> str:
    data: Mapping[str, Any] = study.facts.get("data") or {}
    counts = {"training": "num_train", "validation": "num_val", "test": "num_test"}
    return ", ".join(f"{data.get(key) or 0:,} {name} images" for name, key in counts.items())
