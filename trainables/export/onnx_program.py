"""Writes exported programs as ONNX, one file each, and runs such files."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract.files import first_line
from trainables.export.program import load_program

LARGEST = 2**31 - 2**24
"""Bytes of weights that one file holds: 2 GB, which is protobuf's limit, less the graph."""

BATCH = "N"
"""Name of the free first dimension."""

CLASSES = "classes"
"""Key of the file's metadata that holds the names of the classes, as JSON, in the order of the output."""

PROVIDERS = ("CPUExecutionProvider",)


def write_onnx(program: Path, target: Path, *, output: str, metadata: Mapping[str, Any]) -> int:
    """Write a program of torch.export as ONNX, its weights inside; inputs keep their names.

    The batch stays free because the program's is: nothing is traced again. The opset is the one that torch
    writes by itself; every newer one takes an onnxruntime as new, and the graphs have no use for it.

    Args:
        output: name of the output.
        metadata: goes into the file's own, as JSON.

    Returns:
        The opset.

    Raises:
        ValueError: the file would be larger than 2 GB, or torch cannot write an operation of the model.
    """
    import onnx

    exported = load_program(program)
    inputs = list(exported.graph_signature.user_inputs)
    check_size(exported)
    try:
        with quiet():
            written = torch.onnx.export(
                exported, (), dynamo=True, input_names=inputs, output_names=[output], verbose=False
            )
        assert written is not None
        model = strip(written.model_proto)
        for name, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = name, json.dumps(value, ensure_ascii=True)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the exporter's and the checker's own kinds
        raise ValueError(
            f"torch {torch.__version__} cannot write this model as ONNX: {first_line(error)}"
        ) from error
    target.write_bytes(model.SerializeToString(deterministic=True))
    return max(int(one.version) for one in model.opset_import if not one.domain)


def check_size(program: torch.export.ExportedProgram) -> None:
    """Refuse a program whose weights do not go into one file.

    Raises:
        ValueError: they do not.
    """
    tensors = [*program.state_dict.values(), *program.constants.values()]
    distinct = {one.data_ptr(): one for one in tensors if isinstance(one, Tensor) and one.numel()}
    total = sum(one.numel() * one.element_size() for one in distinct.values())
    if total > LARGEST:
        raise ValueError(
            f"the weights take {total / 1e9:.1f} GB, and one ONNX file holds 2 GB: use classifier.pt2, or a "
            "smaller answer (finalize.py --rule single)"
        )


def strip(model: Any) -> Any:
    """Remove what names the files and lines that made an ONNX model, and name its free dimension."""
    graph = model.graph
    symbol = next(iter(graph.input)).type.tensor_type.shape.dim[0].dim_param
    if not symbol:
        raise ValueError("the number of images is not free")
    for one in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        one.ClearField("metadata_props")
        one.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", BATCH, dimension.dim_param)
    return model


def load_onnx(path: Path, *, threads: int | None = None) -> Callable[..., Tensor]:
    """Load an ONNX file as a function of tensors on the CPU, given in the order of its inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=list(PROVIDERS))
    names: Sequence[str] = [one.name for one in session.get_inputs()]

    def run(*tensors: Tensor) -> Tensor:
        given = {name: one.contiguous().numpy() for name, one in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and log lines of exporters, which speak of their own affairs."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
