"""Web bundles outside a browser: their module and engine, run by Node."""
