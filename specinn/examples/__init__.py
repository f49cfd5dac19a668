"""Example spectra that ship with specinn: five simulated stars as 4MOST HRS would deliver them.

They were made by ``python -m specinn.examples.make``; ``truth.csv`` holds what went in.
"""
