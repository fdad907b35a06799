"""The ways to search that are compared: random, what the project did before, and its new parts."""

from __future__ import annotations

from benchmarks.quality.replay import Method

RIVAL = "OptunaSearch + ASHAScheduler"
"""Ray's own classes with their defaults: benchmarks/quality/rival.py."""

METHODS = {
    "before": Method(searcher="tpe", scheduler="asha", rule="best"),
    "random": Method(searcher="random", scheduler="none", rule="best"),
    "last epoch alone": Method(searcher="tpe", scheduler="asha", rule="last"),
    "guided alone": Method(searcher="guided", scheduler="asha", rule="best"),
    "evidence alone": Method(searcher="tpe", scheduler="evidence", rule="best"),
    "last epoch, evidence": Method(searcher="tpe", scheduler="evidence", rule="last"),
    "last epoch, evidence, guided": Method(searcher="guided", scheduler="evidence", rule="last"),
}
"""Before: what the project did without the other three."""
