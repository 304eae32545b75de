"""What Douane costs, measured beside a peer in the same run."""
