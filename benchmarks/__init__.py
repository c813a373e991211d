"""How fast jetsync is, beside its peers. `make bench` runs it; each module tells what it measures and how."""
