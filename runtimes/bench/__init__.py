"""Measuring sessions: how long a token takes, how much memory, how far that is from what the machine can do."""
