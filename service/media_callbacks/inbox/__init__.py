"""The inbox keeps every receipt, decides which completions are new, and hands events to the dispatcher."""
