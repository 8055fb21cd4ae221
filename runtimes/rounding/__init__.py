"""Rounding as noise: any torch code run with errors as float32 would make them, from which bounds are estimated."""
