"""What happened: leaderboard, status and the MLflow view, all read from the study database."""
