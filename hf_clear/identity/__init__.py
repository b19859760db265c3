"""What a run is: its data, weights, settings and processes. A run that goes on has to be the same."""
