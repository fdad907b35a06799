"""Leaderboard, report, comparison and MLflow view: all of them read the study database."""

from analysis.notebook import load_epochs, load_trials

__all__ = ["load_epochs", "load_trials"]
