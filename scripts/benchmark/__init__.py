"""The comparison of poolers that scripts/bench runs. Reading order: `workload`, `login`, `idle`, `report`, `run`."""
