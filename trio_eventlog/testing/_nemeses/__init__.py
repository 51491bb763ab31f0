"""Nemeses: what happens to programs, their network and their machine, done on purpose."""
