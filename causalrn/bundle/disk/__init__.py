"""Files and folders on disk: opened as input, written whole or not at all, replaced only if they are ours."""
