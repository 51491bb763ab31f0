"""Loss of power: what was done to the files of a store, and what a disk may hold of it afterwards."""
