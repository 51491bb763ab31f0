"""How a log is read: subscriptions, tails, merges."""
