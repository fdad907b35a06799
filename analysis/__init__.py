"""What happened: leaderboard, report, comparison and the MLflow view, all read from the study database."""

from analysis.notebook import load_epochs, load_trials

__all__ = ["load_epochs", "load_trials"]
