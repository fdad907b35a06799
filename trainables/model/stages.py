"""Stages of a backbone, and the cut that parts it into a frozen prefix and a trainable suffix."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, fx, nn

Depth = int | Literal["all"]


def parameter_stages(module: nn.Module) -> dict[str, int]:
    """The stage of every parameter by name, counted from the stem.

    timm's coarse groups, except that a last group holding nothing but a norm belongs to the stage it follows:
    on its own it would spend a whole step of unfreeze depth on a few thousand numbers.
    """
    matcher = getattr(module, "group_matcher", None)
    if matcher is None:
        return dict.fromkeys((name for name, _ in module.named_parameters()), 0)
    from timm.models import group_parameters

    groups: dict[int, list[str]] = group_parameters(module, matcher(coarse=True))
    parameters = dict(module.named_parameters())
    stages: dict[str, int] = {}
    stage = -1
    for group in sorted(groups):
        is_norm = all(parameters[name].dim() <= 1 for name in groups[group])
        if not (is_norm and stage >= 0):
            stage += 1
        stages.update(dict.fromkeys(groups[group], stage))
    return stages


def num_stages(module: nn.Module) -> int:
    """Stages of the backbone, the stem included: the greatest unfreeze depth."""
    return 1 + max(parameter_stages(module).values(), default=0)


def num_trainable_stages(module: nn.Module, depth: Depth) -> int:
    """The depth as a count of stages.

    Raises:
        ValueError: the backbone has fewer stages than that.
    """
    count = num_stages(module)
    if depth == "all":
        return count
    if depth > count:
        raise ValueError(f'unfreeze_depth {depth} is more than the {count} stages of the backbone: use "all"')
    return depth


def cut(module: nn.Module, depth: Depth) -> tuple[nn.Module, nn.Module]:
    """Part a backbone: suffix(prefix(images)) = backbone(images), the suffix being the top `depth` stages.

    Both share the backbone's submodules and parameters, under the same names; nothing is copied. Layers
    without parameters between the two go to the prefix, since pooling makes its output smaller; behind the
    last stage they go to the suffix, or to the prefix at depth 0.

    Raises:
        ValueError: the depth is too great, or the backbone cannot be cut there.
    """
    top = num_trainable_stages(module, depth)
    stages = parameter_stages(module)
    first_trainable = num_stages(module) - top
    if top == 0:
        return module, nn.Identity()
    if first_trainable == 0:
        return nn.Identity(), module
    graph = _trace(module, stages)
    nodes = list(graph.nodes)
    point = _find_cut(graph, _node_stages(graph, stages), first_trainable)
    if point is None:
        raise ValueError(
            f"{type(module).__name__} has no point to cut at unfreeze_depth {depth}: use another depth"
        )
    return _subgraph(module, nodes, None, point), _subgraph(module, nodes, point, None)


class _StageTracer(fx.Tracer):
    """Records a call of a module that lies within one stage as one node.

    Its inside stays ordinary Python, so train mode, stochastic depth and shape arithmetic work as in the
    original (a full trace would freeze `self.training` into the graph), and tracing takes 10 to 40 ms.
    """

    def __init__(self, stages: dict[str, int]) -> None:
        super().__init__()
        self.stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = module_qualified_name.removeprefix("backbone").removeprefix(".")
        if not inside:
            return False
        found = {stage for name, stage in self.stages.items() if name.startswith(f"{inside}.")}
        return len(found) <= 1 or super().is_leaf_module(m, module_qualified_name)


class _ImagesOnly(nn.Module):
    """Hides a backbone's optional arguments (masks and the like) from the tracer."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images)


def _trace(module: nn.Module, stages: dict[str, int]) -> fx.Graph:
    try:
        graph = _StageTracer(stages).trace(_ImagesOnly(module))
    except (
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
        IndexError,
    ) as error:  # a value it branches on
        raise ValueError(
            f'{type(module).__name__} cannot be cut: unfreeze_depth must be 0 or "all" ({error})'
        ) from error
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("backbone.")
    return graph


def _node_stages(graph: fx.Graph, stages: dict[str, int]) -> dict[fx.Node, int]:
    """The stage of every node that uses parameters; a parameter read directly counts where it is used."""
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            inside = [stage for name, stage in stages.items() if name.startswith(f"{node.target}.")]
            if inside:
                found[node] = inside[0]
        elif node.op == "get_attr" and node.target in stages:
            for user in _real_users(node):
                found[user] = max(found.get(user, 0), stages[node.target])
    return found


def _real_users(node: fx.Node) -> list[fx.Node]:
    """Who uses it, looking through nodes that are computed from parameters alone."""
    users: list[fx.Node] = []
    for user in node.users:
        users += _real_users(user) if _is_constant(user) else [user]
    return users


def _is_constant(node: fx.Node) -> bool:
    """Whether the value depends on no image: it can be computed on both sides of the cut."""
    if node.op == "get_attr":
        return True
    if node.op in ("placeholder", "output", "call_module"):
        return False
    return bool(node.all_input_nodes) and all(_is_constant(source) for source in node.all_input_nodes)


def _find_cut(graph: fx.Graph, node_stages: dict[fx.Node, int], first_trainable: int) -> fx.Node | None:
    """The last node whose value alone leads from the frozen stages to the trainable ones."""
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    frozen = [position[node] for node, stage in node_stages.items() if stage < first_trainable]
    trainable = [position[node] for node, stage in node_stages.items() if stage >= first_trainable]
    if not frozen or not trainable or max(frozen) >= min(trainable):
        return None
    for point in range(min(trainable) - 1, max(frozen) - 1, -1):
        alive = {
            node
            for node in nodes[: point + 1]
            if not _is_constant(node) and any(position[user] > point for user in node.users)
        }
        if len(alive) == 1:
            return alive.pop()
    return None


def _subgraph(
    module: nn.Module, nodes: list[fx.Node], start: fx.Node | None, end: fx.Node | None
) -> fx.GraphModule:
    """The part of the graph behind `start` up to and with `end`, as a module of its own."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if start is not None:
        copies[start] = graph.placeholder("features")
    for node in nodes:
        inputs_known = all(source in copies for source in node.all_input_nodes)
        if node in copies or not inputs_known or (start is not None and node.op == "placeholder"):
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is end:
            graph.output(copies[node])
            break
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return fx.GraphModule(module, graph, class_name=f"{type(module).__name__}Part")
