"""Commands about usage and costs."""
