"""The MLflow view of a study, written while it runs and rebuilt by `sync`: the only room that knows MLflow.

A study is one experiment of the same name: its page, sorted by the study's metric, is the study's
leaderboard, and its charts compare trials that saw the same data. Several studies are compared by selecting
their experiments.
"""

from analysis.tracking.leaderboard_link import find_leaderboard
from analysis.tracking.model import log_model
from analysis.tracking.tracker import Tracker
from analysis.tracking.writer import sync

__all__ = ["Tracker", "find_leaderboard", "log_model", "sync"]
