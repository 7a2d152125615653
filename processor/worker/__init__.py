"""Executes tasks: reads work, runs it, settles it, and looks after what time does to it."""
