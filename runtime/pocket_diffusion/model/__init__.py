"""A bundle's networks: loaded in stages, run within a memory budget."""
