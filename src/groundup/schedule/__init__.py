"""How the learning rate moves over a run, as pure functions of the clock; nothing here knows an optimizer."""
