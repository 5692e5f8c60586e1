"""The parts of a GSock, each with the actions of one concern.

`events` has what goes in and comes out; `base` the parameters, the descriptor and its end;
`options` what the kernel keeps of them; `reception` what a server shares with its connections;
`sending`, `securing`, `receiving` and `lasting` what their names say. `ginsfsm.c_sock` puts them
together, and has the machine.
"""
