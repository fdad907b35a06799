"""Stages of a backbone, and the cut that divides it into a frozen prefix and a trainable suffix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from contract.files import did_you_mean

Depth = int | str
"""Unfreeze depth, in any form of `TrialConfig.unfreeze_depth`."""


_known_stages: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()
"""Stages found before: finding them takes 1 to 5 ms, and a trial needs them several times."""


def parameter_stages(module: nn.Module) -> dict[str, int]:
    """Parameter name -> its stage, counted up from 0 at the stem."""
    if module not in _known_stages:
        _known_stages[module] = _find_stages(module)
    return _known_stages[module]


def _find_stages(module: nn.Module) -> dict[str, int]:
    """Take timm's coarse parameter groups as stages.

    A last group holding nothing but a norm belongs to the stage it follows: on its own it would spend a whole
    step of unfreeze depth on a few thousand numbers.
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
    """Number of stages of the backbone, stem included: the greatest unfreeze depth."""
    return 1 + max(parameter_stages(module).values(), default=0)


def stage_levels(module: nn.Module) -> dict[str, int]:
    """Parameter name -> its level, counted from 1 at the top stage down to the stem."""
    count = num_stages(module)
    return {name: count - stage for name, stage in parameter_stages(module).items()}


def trainable_names(module: nn.Module, depth: Depth) -> frozenset[str]:
    """Names of the parameters that train at this depth.

    Raises:
        ValueError: the backbone has fewer stages or layers than that, or no such module.
    """
    if depth == 0:
        return frozenset()
    names = [name for name, _ in module.named_parameters()]
    if depth == "all":
        return frozenset(names)
    if isinstance(depth, int):
        stages, count = parameter_stages(module), num_stages(module)
        if depth > count:
            raise ValueError(
                f'unfreeze_depth {depth} is more than the {count} stages of the backbone: use "all"'
            )
        return frozenset(name for name, stage in stages.items() if stage >= count - depth)
    kind, _, value = depth.partition(":")
    return _last_layers(names, int(value)) if kind == "layers" else _from_module(module, names, value)


def _last_layers(names: Sequence[str], count: int) -> frozenset[str]:
    """Names of the parameters of the last `count` modules that have some, in the order of construction."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    if count > len(layers):
        raise ValueError(f'unfreeze_depth layers:{count} is more than the {len(layers)} layers: use "all"')
    kept = set(layers[len(layers) - count :])
    return frozenset(name for name in names if name.rpartition(".")[0] in kept)


def _from_module(module: nn.Module, names: Sequence[str], start: str) -> frozenset[str]:
    """Names of the parameters of a module and of all that were constructed after it."""
    inside = [number for number, name in enumerate(names) if name.startswith(f"{start}.")]
    if not inside:
        choices = [name for name, _ in module.named_modules() if name.count(".") < 2 and name]
        hint = did_you_mean(start, choices) or f"the first are {', '.join(choices[:5])}"
        raise ValueError(f"unfreeze_depth from:{start}: no such module; {hint}")
    return frozenset(names[inside[0] :])


def cut(module: nn.Module, depth: Depth) -> tuple[nn.Module, nn.Module]:
    """Cut a backbone so that suffix(prefix(images)) = backbone(images), with all that trains in the suffix.

    Both share the backbone's submodules and parameters, under the same names; nothing is copied. Layers
    without parameters between the two go to the prefix, since pooling makes its output smaller; behind the
    last stage they go to the suffix, or to the prefix at depth 0.

    The cut needs a point where one tensor carries everything. Between stages there is one; where the border
    runs through branches, or a backbone cannot be traced, the suffix begins lower (at worst with the images)
    and holds frozen parameters too.

    Raises:
        ValueError: the depth is more than there is.
    """
    trainable = trainable_names(module, depth)
    if not trainable:
        return module, nn.Identity()
    if trainable == {name for name, _ in module.named_parameters()}:
        return nn.Identity(), module
    try:
        graph = _trace(module, trainable)
    except UNTRACEABLE:
        return nn.Identity(), module
    nodes = list(graph.nodes)
    point = _find_cut(graph, _trainable_nodes(graph, trainable))
    if point.op == "placeholder":
        return nn.Identity(), module
    return _subgraph(module, nodes, None, point), _subgraph(module, nodes, point, None)


def cut_at_all(module: nn.Module, depths: Sequence[Depth]) -> list[tuple[Depth, nn.Module]]:
    """Cut a backbone at several depths: the segments up to a depth, chained, are its prefix.

    The greatest depth comes first. Several borders may move a cut past a layer without parameters compared
    with `cut`, so callers compare outputs.

    Raises:
        UNTRACEABLE: the backbone cannot be cut.
    """
    trainable = {depth: trainable_names(module, depth) for depth in depths}
    graph = _trace(module, *trainable.values())
    nodes = list(graph.nodes)
    end: fx.Node = nodes[-1].all_input_nodes[0]
    points = {
        depth: _find_cut(graph, _trainable_nodes(graph, names)) if names else end
        for depth, names in trainable.items()
    }
    position = {node: index for index, node in enumerate(nodes)}
    parts: list[tuple[Depth, nn.Module]] = []
    start: fx.Node | None = None
    for depth, point in sorted(points.items(), key=lambda item: position[item[1]]):
        if point.op != "placeholder" and point is not start:
            parts.append((depth, _subgraph(module, nodes, start, point)))
            start = point
    return parts


UNTRACEABLE = (ValueError, TypeError, RuntimeError, AttributeError, IndexError)
"""What tracing raises where a backbone branches on a value it computed."""


class _BorderTracer(fx.Tracer):
    """Records a call of a module that trains wholly, or not at all, as one node.

    Its inside stays ordinary Python, so train mode, stochastic depth and shape arithmetic work as in the
    original (a full trace would freeze `self.training` into the graph), and tracing takes 10 to 40 ms.
    """

    def __init__(self, *trainable: frozenset[str]) -> None:
        """With several sets, a leaf is a module that trains wholly or not at all by each of them."""
        super().__init__()
        self.trainable = trainable

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = module_qualified_name.removeprefix("backbone").removeprefix(".")
        if not inside:
            return False
        names = [f"{inside}.{name}" for name, _ in m.named_parameters()]
        is_whole = all(len({name in trainable for name in names}) <= 1 for trainable in self.trainable)
        return is_whole or super().is_leaf_module(m, module_qualified_name)


class _ImagesOnly(nn.Module):
    """Hides a backbone's optional arguments (masks and the like) from the tracer."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images)


def _trace(module: nn.Module, *trainable: frozenset[str]) -> fx.Graph:
    graph = _BorderTracer(*trainable).trace(_ImagesOnly(module))
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("backbone.")
    return graph


def _trainable_nodes(graph: fx.Graph, trainable: frozenset[str]) -> list[fx.Node]:
    """Nodes that use trainable parameters; a parameter read directly counts where it is used."""
    found: list[fx.Node] = []
    for node in graph.nodes:
        if node.op == "call_module" and any(name.startswith(f"{node.target}.") for name in trainable):
            found.append(node)
        elif node.op == "get_attr" and node.target in trainable:
            found += _real_users(node)
    return found


def _real_users(node: fx.Node) -> list[fx.Node]:
    """Users of a node's value, looking through nodes that are computed from parameters alone."""
    users: list[fx.Node] = []
    for user in node.users:
        users += _real_users(user) if _is_constant(user) else [user]
    return users


def _is_constant(node: fx.Node) -> bool:
    """Whether the value depends on no image, so that both sides of a cut can compute it."""
    if node.op == "get_attr":
        return True
    if node.op in ("placeholder", "output", "call_module"):
        return False
    return bool(node.all_input_nodes) and all(_is_constant(source) for source in node.all_input_nodes)


def _find_cut(graph: fx.Graph, trainable: list[fx.Node]) -> fx.Node:
    """Find the last node before everything trainable through which all data flows; at worst the images."""
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    for point in range(min(position[node] for node in trainable) - 1, 0, -1):
        alive = {
            node
            for node in nodes[: point + 1]
            if not _is_constant(node) and any(position[user] > point for user in node.users)
        }
        if len(alive) == 1:
            return alive.pop()
    return nodes[0]


def _subgraph(
    module: nn.Module, nodes: list[fx.Node], start: fx.Node | None, end: fx.Node | None
) -> fx.GraphModule:
    """Make a module of the graph after `start` up to and including `end`."""
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
