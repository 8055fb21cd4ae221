"""Training: tasks, the loop, checkpoint folders, several processes. Tasks, cards and folders need no torch."""
