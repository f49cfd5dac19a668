"""Example spectra that ship with specinn: five simulated stars as 4MOST HRS would deliver them.

They were made by ``tools/make_examples.py``; ``truth.csv`` holds what went in.
"""
