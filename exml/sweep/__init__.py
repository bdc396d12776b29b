"""Many runs: a grid of scenarios, strategies, fields and seeds."""
