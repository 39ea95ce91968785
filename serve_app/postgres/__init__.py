"""Access to PostgreSQL: connections that repair themselves, and leader election."""
