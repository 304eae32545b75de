"""The demo: everything on one machine, labelled as what it is."""
