"""`lncis suspects` and the commands below it."""
