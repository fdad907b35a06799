"""The ways to search that are compared: random, what the project did before, and its new parts."""

from __future__ import annotations

from benchmarks.quality.replay import Method

RIVAL = "OptunaSearch + ASHAScheduler"
"""Ray's own classes with their defaults: benchmarks/quality/rival.py."""

METHODS = {
    "recipes alone": Method(searcher="random", scheduler="none", rule="last", only_recipes=True),
    "random": Method(searcher="random", scheduler="none", rule="best"),
    "before": Method(searcher="tpe", scheduler="asha", rule="best"),
    "last epoch alone": Method(searcher="tpe", scheduler="asha", rule="last"),
    "last epoch, ties by loss": Method(searcher="tpe", scheduler="asha", rule="last", ties="loss"),
    "guided alone": Method(searcher="guided", scheduler="asha", rule="best"),
    "evidence alone": Method(searcher="tpe", scheduler="evidence", rule="best"),
    "last epoch, ties within noise": Method(searcher="tpe", scheduler="asha", rule="last", ties="noise"),
    "all but guided": Method(searcher="tpe", scheduler="evidence", rule="last", ties="noise"),
    "all but probes": Method(searcher="guided", scheduler="evidence", rule="last", ties="noise"),
    "all but ties within noise": Method(
        searcher="guided", scheduler="evidence", rule="last", ties="loss", probes=True
    ),
    "now": Method(searcher="guided", scheduler="evidence", rule="last", ties="noise", probes=True),
}
"""Before: what the project did without its new parts; now: with all, as tune.py does up to 64 trials.

Beyond, tune.py searches as in "last epoch, ties within noise".
"""
