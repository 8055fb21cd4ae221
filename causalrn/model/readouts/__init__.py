"""How positions read the past: `naive` is the definition, `parallel` what is trained, `recurrent` the cell's form."""
