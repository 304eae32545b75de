"""Tests of the order in which places are tried, and of what is known of them."""
