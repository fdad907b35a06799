"""Speed figures: against what a user would write without us, and of our own search and leaderboard."""
