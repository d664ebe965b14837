"""How a study runs; the studies themselves are the YAML files in the top-level folder `studies`."""
