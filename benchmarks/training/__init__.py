"""Whole trainings: speed, memory, and what is learned."""
