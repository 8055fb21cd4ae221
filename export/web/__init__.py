"""The web target: a folder for any static server, in which a page and an ES module run the cell in a browser."""
