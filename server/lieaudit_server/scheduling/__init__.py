"""Which audit runs when, and the processes they run in."""
