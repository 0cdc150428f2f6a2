"""Evaluation: protocols, students on a set under one of them, and the bytes that a student needs."""
