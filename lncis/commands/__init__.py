"""The command line `lncis`, one file a command."""
