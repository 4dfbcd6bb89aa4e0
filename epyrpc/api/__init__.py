"""The object API: trees of calls and handlers, and how calls reach their handlers."""
