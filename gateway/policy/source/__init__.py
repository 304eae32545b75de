"""The files of a bundle: reading, checking and turning each into values."""
