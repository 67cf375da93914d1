"""Commands: thin layers over the rooms above."""
