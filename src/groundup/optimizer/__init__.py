"""How parameters are moved: one torch optimizer over named parameters in groups, knowing no model and no clock."""
