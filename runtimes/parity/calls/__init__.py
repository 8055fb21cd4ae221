"""The level `calls`: walks over everything that a session offers, compared with a table; failing ones are shrunk."""
