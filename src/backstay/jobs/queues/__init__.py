"""Queues as the operator sees them: paused, limited, shared out between tenants. See `Queues` in `service`."""
