"""A candidate bundle beside the live one: judged on real traffic, and deciding nothing."""
