"""What the stores share. A store package imports this one and no other store."""
