"""Commands about registered weights."""
