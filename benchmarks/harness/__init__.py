"""How workloads are defined, checked, timed and reported."""
