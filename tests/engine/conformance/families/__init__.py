"""A module for each family of pipelines: its tiny components, its classes, what a call needs."""
