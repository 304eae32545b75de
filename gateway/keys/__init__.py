"""Keys of tenants: one random data key for each, wrapped, kept in a folder, and destroyed when it must be."""
