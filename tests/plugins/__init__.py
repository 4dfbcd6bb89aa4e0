"""What the tests add to pytest: the leak guard and the checklist's table."""
