"""What the search did, in plain sentences: its probes, what was unfrozen, and why trials ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.probes import Probe, find_best, load_probes, tell_probes
from analysis.reading import Row
from analysis.report.findings import Findings
from analysis.report.page import show_value
from contract.files import plural
from contract.html import Section, bullets, make_section, paragraph
from contract.messages import PAUSED, State


def account_section(findings: Findings) -> Section:
    sentences = tell_search(findings)
    body = bullets(sentences) if sentences else paragraph("No trial has started yet.")
    return make_section("account", "What the search did", body)


def tell_search(findings: Findings) -> list[str]:
    """Tell in up to four sentences what the search did; empty before its first trial."""
    if not findings.rows:
        return []
    probes = load_probes(findings.study)
    told = [_tell_probes(findings, probes), _tell_lessons(findings, probes), _tell_depths(findings)]
    return [sentence for sentence in (*told, _tell_endings(findings.rows)) if sentence]


def _tell_probes(findings: Findings, probes: Sequence[Probe]) -> str:
    if not probes:
        return ""
    return f"Before anything was unfrozen, it judged {tell_probes(findings.study, probes)}."


def _tell_lessons(findings: Findings, probes: Sequence[Probe]) -> str:
    """Say which backbone the probes favoured, and how many trials took it."""
    names = dict.fromkeys(str(probe.config.get("backbone")) for probe in probes if probe.metrics)
    if len(names) < 2:
        return ""
    study = findings.study
    metric, maximize = study.metric, study.maximize
    best = {
        name: find_best(
            [probe for probe in probes if probe.config.get("backbone") == name], metric, maximize=maximize
        )
        for name in names
    }
    values = {name: probe.metrics[metric] for name, probe in best.items() if probe is not None}
    if not values:
        return ""
    ranked = sorted(values, key=lambda name: values[name], reverse=maximize)
    shown = ", ".join(f"{name} {show_value(metric, values[name])}" for name in ranked)
    proposed = [row for row in findings.rows if not row["recipe"]]
    taken = sum(row.get("backbone") == ranked[0] for row in proposed)
    return (
        f"They favour {ranked[0]} (best head of each backbone: {shown}): {taken} of the "
        f"{plural(len(proposed), 'proposed trial')} use it."
    )


def _tell_depths(findings: Findings) -> str:
    depths = [str(row["unfreeze_depth"]) for row in findings.rows if row.get("unfreeze_depth") is not None]
    if not depths:
        return ""
    counts = Counter(depths)
    shown = ", ".join(f"{_name_depth(depth)} ({counts[depth]})" for depth in sorted(counts, key=_order_depth))
    best = findings.best
    chosen = f"; the best one trains {_name_depth(str(best['unfreeze_depth']))}" if best else ""
    return f"What the trials trained: {shown}{chosen}."


def _name_depth(depth: str) -> str:
    if depth == "0":
        return "the head alone"
    if depth == "all":
        return "the whole network"
    if depth == "1":
        return "the top stage"
    return f"the top {depth} stages" if depth.isdigit() else f"the network {depth}"


def _order_depth(depth: str) -> tuple[bool, int, str]:
    return not depth.isdigit(), int(depth) if depth.isdigit() else 0, depth


def _tell_endings(rows: Sequence[Row]) -> str:
    """Say how many trials ran to their end, and why the others did not."""
    complete = [row for row in rows if row["state"] is State.COMPLETE]
    pruned = sorted((row for row in rows if row["state"] is State.PRUNED), key=lambda row: row["trial"])
    paused = [row for row in pruned if (row["reason"] or "").startswith(PAUSED)]
    stopped = [row for row in pruned if row not in paused]
    others = Counter(row["state"] for row in rows if row["state"] not in (State.COMPLETE, State.PRUNED))
    recipes = sum(bool(row["recipe"]) for row in complete)
    parts = [f"{len(complete)} of {plural(len(rows), 'trial')} ran to their end"]
    parts[0] += f" ({plural(recipes, 'recipe')} among them)" if recipes else ""
    if stopped:
        parts.append(f"{len(stopped)} stopped early{_give_example(stopped)}")
    if paused:
        parts.append(f"{len(paused)} paused and not worth going on with{_give_example(paused)}")
    parts += [f"{number} {state}" for state, number in others.items()]
    return f"{'; '.join(parts)}."


def _give_example(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row["reason"]]
    if not known:
        return ""
    return f" (such as trial {known[0]['trial']}: {known[0]['reason'].removeprefix(PAUSED)})"
