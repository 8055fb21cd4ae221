"""This machine's compiler and processor: finding them, compiling once, keeping what was made, running programs."""
