"""Reports as self-contained pages and pictures: templates, charts, and figures as people read them."""
