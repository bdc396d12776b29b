"""What a strategy costs before it is run: seconds and bytes."""
