"""The spectra that a posterior implies, beside those that were observed."""
