"""Recurrent models that users bring: the functions they consist of, their state, and a copy of them in float64."""
