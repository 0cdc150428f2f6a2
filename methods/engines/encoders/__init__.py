"""Encoders, projectors and teachers of HeLlO and NRR-DD."""
