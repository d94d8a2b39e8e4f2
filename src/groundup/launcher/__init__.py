"""Starting a job's processes and watching over them; it knows no torch, so that it can watch one that hangs."""
