"""The floor: errors, events, programs, files, steps, the graph of them and their schedule. Nothing else of ours."""
