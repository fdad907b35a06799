"""The leaderboard as an HTML table that sorts and filters in the browser, ten thousand trials included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.comparison import describe_finalists
from analysis.leaderboard import (
    find_varying,
    header,
    hyperparameter_names,
    load_leaderboard,
    order_names,
)
from analysis.reading import TRIAL_COLUMNS, Row, StudyInfo
from analysis.report.page import render_page
from contract.html import Section, data_script, escape, make_section, paragraph
from contract.metrics import METRICS, Detail, Unit, shown_metrics

TAIL = ("epochs", "kept_at_epoch", "seconds", "trainable_parameters", "state")


def render_board_page(studies: Sequence[StudyInfo]) -> str:
    """Write the leaderboard of one or more studies as a page of its own."""
    rows = load_leaderboard(studies)
    title = ", ".join(study.name for study in studies)
    conclusion = describe_finalists(rows, studies)
    section = board_section(rows, metric=studies[0].metric, conclusion=conclusion)
    return render_page(f"{title}: leaderboard", [section])


def board_section(rows: Sequence[Row], *, metric: str, conclusion: str = "") -> Section:
    """Build the table; hyperparameters that are the same for all trials stand once, below it."""
    if not rows:
        return make_section("leaderboard", "Leaderboard", paragraph("No trial has started yet."))
    varying = order_names(find_varying(rows))
    names = [name for name in _column_order(rows, metric, varying) if name in rows[0]]
    extra = [name for name in METRICS if name in rows[0] and name not in names]
    columns = [_column(name, rows, extra=False) for name in names]
    columns += [_column(name, rows, extra=True) for name in extra]
    cells = [[_cell(row, name) for name in (*names, *extra)] for row in rows]
    hint = f"filter: words, or state:complete {metric}>0.5"
    return make_section(
        "leaderboard",
        "Leaderboard",
        paragraph(conclusion) if conclusion else "",
        '<div class="board"><div class="tools">'
        f'<input type="search" placeholder="{escape(hint)}" aria-label="filter trials">'
        '<button class="all">all columns</button><span class="count" role="status"></span></div>'
        '<div class="wide"><table><thead><tr></tr></thead><tbody></tbody></table></div>'
        '<div class="tools"><button class="more" hidden>more</button></div>'
        f"{data_script({'columns': columns, 'rows': cells}, kind='rows')}</div>",
        paragraph(
            "Values are those of the epoch that each trial keeps (hyperparameter kept_epoch). A pruned trial "
            "was stopped early, so its value is what it had reached by then. Click a heading to sort.",
            kind="note",
        ),
        paragraph(_same_for_all(rows, varying), kind="note"),
    )


def _column_order(rows: Sequence[Row], metric: str, varying: Sequence[str]) -> list[str]:
    several = len({row["study"] for row in rows}) > 1
    head = [*(["study"] if several else []), "trial", metric, *varying]
    middle = [name for name in shown_metrics(Detail.HEADLINE) if name != metric]
    return list(dict.fromkeys((*head, *middle, *TAIL)))


def _column(name: str, rows: Sequence[Row], *, extra: bool) -> dict[str, Any]:
    values = [row.get(name) for row in rows[:200] if row.get(name) is not None]
    is_number = bool(values) and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in values
    )
    row = METRICS.get(name)
    about = row.about if row else TRIAL_COLUMNS.get(name, "hyperparameter")
    digits = 1 if name == "seconds" else None
    if row and not row.is_count and row.unit is not Unit.NONE:
        digits = 4
    return {
        "name": name,
        "label": header(name),
        "about": about,
        "number": is_number,
        "digits": digits,
        "extra": extra,
    }


def _cell(row: Row, name: str) -> Any:
    value = row.get(name)
    if name == "state":
        note = row.get("reason") or ("recipe" if row.get("recipe") else None)
        return f"{value}: {note}" if note else value
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _same_for_all(rows: Sequence[Row], varying: Sequence[str]) -> str:
    names = [name for name in hyperparameter_names(rows) if name not in varying]
    same = [f"{name} {rows[0][name]}" for name in names if rows[0].get(name) not in (None, 0, 0.0, False, "")]
    return f"The same for all trials: {', '.join(same)}; the rest is 0 or off." if same else ""
