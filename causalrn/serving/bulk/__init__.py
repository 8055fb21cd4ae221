"""Generation over a file of prompts: lines in, lines out, by continuous batching. Needs no network and no extra."""
