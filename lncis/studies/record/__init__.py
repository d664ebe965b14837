"""What a study writes into its folder while it runs, and reads there again: journal, requests, logs."""
