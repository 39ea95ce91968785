"""OpenAPI documents, collected from the routes, and descriptions of endpoints as text."""
