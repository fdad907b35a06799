"""The ways to search that are compared: recipes alone, random, today's default, each new part alone, all."""

from __future__ import annotations

from benchmarks.quality.replay import Method

RIVAL = "OptunaSearch + ASHAScheduler"
"""Ray's own classes with their defaults: benchmarks/quality/rival.py."""

METHODS = {
    "today": Method(searcher="tpe", scheduler="asha", rule="best"),
    "random": Method(searcher="random", scheduler="none", rule="best"),
    "kept epoch": Method(searcher="tpe", scheduler="asha", rule="last"),
    "guided": Method(searcher="guided", scheduler="asha", rule="best"),
    "evidence": Method(searcher="tpe", scheduler="evidence", rule="best"),
    "all": Method(searcher="guided", scheduler="evidence", rule="last"),
}
