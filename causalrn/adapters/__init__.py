"""Models of other libraries as the functions that verification and exporters take, one module per library."""
