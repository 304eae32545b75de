"""What must outlive a request and be shared between workers: cache entries, limits, budgets and taints."""
