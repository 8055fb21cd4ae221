"""Models that users bring, as sessions, and what is checked of them beside what parity/ checks of every session.

Data flows: forms -> probe of the state -> sessions and oracle -> `Verification` of parity/ with the levels that only
functions have (contract, padding, positions, reload) -> where two forms part.
"""
