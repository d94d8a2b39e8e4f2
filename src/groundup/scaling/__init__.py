"""Arithmetic about compute, as a plain library: what devices can do and what part of it was used."""
