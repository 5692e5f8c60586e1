"""The parts of a GSock, each with the actions of one concern.

`events` has what goes in and comes out; `base` the parameters, the descriptor and its end;
`sending` and `securing` what their names say. `ginsfsm.c_sock` puts them together, and has the
machine.
"""
