"""What a study leaves: its result, cost and statistics, as table, plots, HTML page and files."""
