"""Fakes that ship: accurate enough that other people's clients accept them."""
