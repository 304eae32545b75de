"""Among the permitted places: which is tried, in which order, and what is known of their state."""
