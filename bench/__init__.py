"""Measurements, one file a question. Each measures against a floor in the same run, since absolute figures say more of the machine."""
