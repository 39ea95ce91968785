"""Commands for the audit log, and for the deletion and export of tenants."""
