"""What decides: order, cap, losses, schedule. Pure: no Trio, no clock. Floor 1."""
