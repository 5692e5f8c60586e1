"""The commands of `ginsfsm`, one in each module, and what they share."""
