"""The event log: a nursery, a channel, and the one task that writes to the store."""
